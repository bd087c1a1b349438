"""The processes that `mpirun` starts together: how many there are, which one this is, and how all of them end.

Open MPI says so in the environment. The first process alone speaks, writes and heeds signals; the others compute with
it and end when it does.
"""

import functools
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from common.command import end, run_command, status_of
from common.errors import ParameterError, UserError
from common.interrupt import pass_over_signals

GRACE = 3.0  # seconds that the first process has to speak for all


def under_mpirun() -> bool:
    """Whether Open MPI's `mpirun` has started this process, be it alone."""
    return "OMPI_COMM_WORLD_SIZE" in os.environ


def count() -> int:
    """How many processes compute together."""
    return int(os.environ.get("OMPI_COMM_WORLD_SIZE", 1))


def here() -> int:
    """How many of them run on this machine."""
    return int(os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE", count()))


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def rank() -> int:
    """This one's number, from 0."""
    return int(os.environ.get("OMPI_COMM_WORLD_RANK", 0))


def local_rank() -> int:
    """This one's number among those on this machine, from 0."""
    return int(os.environ.get("OMPI_COMM_WORLD_LOCAL_RANK", rank()))


def is_first() -> bool:
    """Whether this is the process that speaks and writes; true where there is only one."""
    return rank() == 0


def run_together(main: Callable[[], int | None]) -> None:
    """`run_command` in each of the processes. One that fails ends at once, whereupon `mpirun` ends the others.

    At once: MPI's own way of ending waits for the others, and they may be waiting for this one's part of a sum.
    """
    if count() == 1:
        run_command(main)
    try:
        status = status_of(main if is_first() else functools.partial(_stand_behind, main))
    except SystemExit as ended:
        status = int(ended.code or 0)
    end(status)


def _stand_behind(main: Callable[[], int | None]) -> int | None:
    """Runs `main` without a word. What fails here alone is reported, after the first process had time to end all."""
    pass_over_signals()
    errors = sys.stderr
    sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 (for as long as this process lives)
    try:
        return main()
    except Exception as error:
        time.sleep(GRACE)
        sys.stderr = errors
        if isinstance(error, UserError):
            raise ParameterError("process {rank}, where the first is 0: {error}", rank=rank(), error=error) from error
        raise
