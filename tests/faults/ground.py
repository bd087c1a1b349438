"""What the fault tests stand on: a tiny world, commands run in it as a user does, and what must be alike at the end."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import tiny
from places import ROOT

CLOCK = {"seconds", "tokens_per_second"}  # all that may differ between a disturbed run and another
THREADS = {"OMP_NUM_THREADS": "1"}  # what is compared here are bytes, and small runs gain nothing by more


def build_world(root: Path) -> Path:
    """A model with dropout and dialogues of uneven length; returns the folder."""
    tiny.model_folder(root / "model", seed=1, dropout=0.1)
    tiny.dialogue_folder(root / "data", seed=2)
    return root


def training(world: Path, run_dir: Path, *more) -> list[str]:
    """A command line with all that a resumed run must take up again: dropout, accumulation, a schedule, patience."""
    given = ["train.py", "--task", "dailydialog", "--model", world / "model", "--data-dir", world / "data"]
    given += ["--output-dir", run_dir, "--batch-size", 4, "--max-length", 60, "--gradient-accumulation", 2]
    given += ["--lora-r", 2, "--learning-rate", 1e-2, "--eval-every", 3, "--save-every", 2, "--patience", 50]
    return [str(value) for value in [*given, *more]]


class Running(subprocess.Popen):
    """A command on its way. What it says goes to files: a bar fills a pipe that nobody reads."""

    def __init__(
        self, arguments: list, launcher: Sequence[str] = (), program: str = sys.executable, **environment: str
    ):
        self.outputs = (tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+"))  # noqa: SIM115 (for finish)
        super().__init__(
            [*launcher, program, *map(str, arguments)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=self.outputs[0],
            stderr=self.outputs[1],
            env=os.environ | THREADS | environment,
        )

    def finish(self) -> subprocess.CompletedProcess:
        """Waits for its end and returns what it said."""
        status = self.wait(timeout=600)
        texts = []
        for file in self.outputs:
            file.seek(0)
            texts.append(file.read())
            file.close()
        return subprocess.CompletedProcess(self.args, status, *texts)


def command(arguments: list, **environment: str) -> subprocess.CompletedProcess:
    """Runs `python <arguments>` in the project's folder, to its end."""
    return Running(arguments, **environment).finish()


def wait_for(condition, process: subprocess.Popen, seconds: float = 120) -> None:
    """Waits until `condition()` is true, or the process has ended."""
    deadline = time.monotonic() + seconds
    while not condition() and process.poll() is None:
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.005)


def lines_of(run_dir: Path) -> list[dict]:
    """The metrics of a run without what the clock decides. Every line must be whole."""
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in record.items() if name not in CLOCK} for record in records]


def steps_logged(run_dir: Path) -> int:
    path = run_dir / "metrics.jsonl"
    return path.read_text().count('"train"') if path.is_file() else 0


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def unfinished(folder: Path) -> list[str]:
    """What is left of writing that did not end well, and of locks."""
    return [path.name for path in folder.rglob("*") if path.name.startswith(".")]


def assert_same_end(run_dir: Path, undisturbed: Path) -> None:
    """The adapter's and the moments' bytes, the position, and the metrics are those of the undisturbed run."""
    assert lines_of(run_dir) == lines_of(undisturbed)
    kept = ["adapter_model.safetensors", "adapter_config.json"]
    last = max(undisturbed.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    kept += [f"{last.name}/{name}" for name in ("adapter_model.safetensors", "optimizer.safetensors", "identity.json")]
    for name in kept:
        assert (run_dir / name).read_bytes() == (undisturbed / name).read_bytes(), name
    assert not unfinished(run_dir)


def assert_told(result: subprocess.CompletedProcess, status: int, *words) -> None:
    """The exit status, no traceback, and an error of a single line that holds all the words."""
    assert result.returncode == status, result.stderr[-1000:]
    assert "Traceback" not in result.stderr, result.stderr
    if status == 2:
        errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and result.stderr.rstrip().endswith(errors[0]), result.stderr
        assert [str(word) for word in words if str(word) not in errors[0]] == [], errors[0]
