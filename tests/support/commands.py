"""Runs the commands as a user types them, and says how they must end over a mistake."""

import os
import subprocess
import sys

from places import ROOT

PNG = b"\x89PNG\r\n\x1a\n"  # how such a file begins
PROGRAM = """
import sys
from common.command import run_command
from common.output import ignore_closed_output
def main():
    {body}
run_command(main)
"""


def command(*arguments, given: str | None = None, **environment) -> subprocess.CompletedProcess:
    """Runs `python <arguments>` in the project's folder."""
    return subprocess.run(
        [sys.executable, *(value if isinstance(value, bytes) else str(value) for value in arguments)],
        check=False,
        cwd=ROOT,
        input=given,
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | environment,
    )


def train(run, model, data, *more) -> list:
    """The arguments of `command` for a small training on dialogues."""
    return [
        *("train.py", "--task", "dailydialog", "--model", model, "--data-dir", data, "--output-dir", run),
        *("--batch-size", 4, "--max-length", 60, *more),
    ]


def assert_one_line_error(result, *words) -> None:
    """Exit status 2 and a single line on stderr that holds all the words."""
    assert result.returncode == 2, result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    assert all(str(word) in lines[0] for word in words), lines[0]


def start_main(body: str, **streams) -> subprocess.Popen:
    """Starts a command whose main function is `body`."""
    return subprocess.Popen([sys.executable, "-c", PROGRAM.format(body=body)], cwd=ROOT, text=True, **streams)


def error_of(body: str, **streams) -> tuple[int, str]:
    """The exit status of such a command, and what it says on stderr."""
    process = start_main(body, stderr=subprocess.PIPE, **streams)
    said = process.communicate(timeout=60)[1]
    return process.returncode, said
