"""How one of several processes speaks and ends. `mpirun` is played by the environment that it makes."""

import os
import signal
import subprocess
import sys
import time

import pytest
from places import ROOT

from common import processes

PROGRAM = """
import atexit, sys
from common import processes
from common.errors import UserError
processes.GRACE = {grace}
atexit.register(lambda: print("waiting for the others"))
def main():
    print("said", flush=True)
    {body}
processes.run_together(main)
"""


def start(rank: int | None, body: str, grace: float = 0.1) -> subprocess.Popen:
    """`body` as the main function of process `rank` of two, or of a process that is alone."""
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("OMPI_")}
    if rank is not None:
        surroundings |= {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": str(rank)}
    program = PROGRAM.format(body=body, grace=grace)
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, env=surroundings, stdout=pipe, stderr=pipe, text=True
    )


def end(process: subprocess.Popen) -> tuple[int, str, str]:
    said, errors = process.communicate(timeout=60)
    return process.returncode, said, errors


def test_a_process_alone_is_the_first_of_one(monkeypatch):
    for name in ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert not processes.under_mpirun() and processes.is_first()
    assert (processes.count(), processes.here(), processes.rank()) == (1, 1, 0)


def test_processes_are_counted_as_mpirun_says(monkeypatch):
    for name, value in (("SIZE", "8"), ("RANK", "5"), ("LOCAL_SIZE", "4")):
        monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", value)
    assert processes.under_mpirun() and not processes.is_first()
    assert (processes.count(), processes.here(), processes.rank()) == (8, 4, 5)


@pytest.mark.parametrize(
    "rank, said", [(None, "said\nwaiting for the others\n"), (0, "said\nwaiting for the others\n")]
)
def test_what_went_well_ends_as_anything_ends(rank, said):
    assert end(start(rank, "pass")) == (0, said, "")


def test_the_others_say_nothing():
    assert end(start(1, "print('more', file=sys.stderr)")) == (0, "", "")


@pytest.mark.parametrize("rank, prefix", [(0, ""), (1, "process 1, where the first is 0: ")])
def test_an_error_is_one_line_and_does_not_wait_for_the_others(rank, prefix):
    assert end(start(rank, "raise UserError('no good')")) == (2, "said\n" * (not rank), f"error: {prefix}no good\n")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_fault_of_ours_is_one_line_with_its_traceback_in_a_file_and_does_not_wait_either(rank, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    status, said, errors = end(start(rank, "1 / 0"))
    assert (status, said) == (70, "said\n" * (not rank))
    assert errors.startswith("error: this should not happen: ZeroDivisionError: division by zero (")
    assert errors.count("\n") == 1 and "Traceback" in next(tmp_path.iterdir()).read_text()


def test_an_error_of_another_process_is_kept_back_while_the_first_may_tell_it():
    process = start(1, "raise UserError('the same everywhere')", grace=30)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.5)
    process.kill()  # as mpirun does when the first has ended
    assert process.communicate(timeout=60) == ("", "")


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_the_first_process_and_leave_the_others_to_it(number, status):
    body = "import time; time.sleep(2)"
    first, second = start(0, body), start(1, body)
    first.stdout.readline()
    time.sleep(0.5)  # the second, which says nothing, has come as far
    for process in (first, second):
        process.send_signal(number)
    assert end(first)[0] == status
    assert end(second) == (0, "", "")
