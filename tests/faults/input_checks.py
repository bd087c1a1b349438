"""Arguments and inputs checked without a run: commands up to the moment at which Jittor would be imported.

`InputChecks` talks over a pipe to a process that has imported what takes long, once, and forks itself for each command:
so one takes milliseconds.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from places import IMPORTS

PASSED = 77  # the exit status of a command with which nothing was wrong
SECONDS = 10
MEMORY = 3 << 30  # address space: what asks for more than that fails


@dataclass(frozen=True)
class Answer:
    """How a command ended."""

    status: int
    errors: str
    seconds: float


class InputChecks:
    """The other process."""

    def __init__(self, folder: Path):
        """`folder`: where the commands run."""
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": IMPORTS},
        )

    def run(self, script: str, *arguments) -> Answer:
        """Runs `python <script>.py <arguments>`."""
        self.process.stdin.write(json.dumps([script, *map(str, arguments)]) + "\n")
        self.process.stdin.flush()
        return Answer(**json.loads(self.process.stdout.readline()))

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=30)


def assert_refused(answer: Answer, *words) -> None:
    """Status 2 and a single line, not too long to be read, with all the words."""
    assert answer.status == 2, (answer.status, answer.errors[-2000:])
    lines = answer.errors.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), answer.errors[:2000]
    assert [str(word) for word in words if str(word) not in lines[0]] == [], lines[0][:500]
    assert len(lines[0]) < 3000


def serve() -> None:
    import transformers.models.gpt2  # noqa: F401 (what takes long)
    import yaml  # noqa: F401

    import evaluate  # noqa: F401
    import generate  # noqa: F401
    import generation.console  # noqa: F401
    import plot_loss  # noqa: F401
    import train  # noqa: F401
    import training.setup  # noqa: F401

    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


def answer(arguments: list[str]) -> dict:
    with tempfile.TemporaryFile("w+") as errors:
        started = time.monotonic()
        child = os.fork()
        if not child:
            be_command(arguments, errors.fileno())
        _, status = os.waitpid(child, 0)
        errors.seek(0)
        return {
            "status": os.waitstatus_to_exitcode(status),
            "errors": errors.read(),
            "seconds": time.monotonic() - started,
        }


def be_command(arguments: list[str], errors: int) -> None:
    import importlib

    from common.command import run_command
    from gpt2_jittor.runtime import runtime

    signal.alarm(SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(0, 1)
    os.dup2(errors, 2)
    command = importlib.import_module(arguments[0])
    # a training has settled its device before, with all that can be wrong
    module, name = (command, "train") if arguments[0] == "train" else (runtime, "prepare")
    setattr(module, name, lambda *_, **__: sys.exit(PASSED))
    sys.argv = [f"{arguments[0]}.py", *arguments[1:]]
    status = 1
    try:
        run_command(command.main)
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    serve()
