"""How every command reads its options, how it speaks, and how it ends."""

import argparse
import contextlib
import errno
import os
import signal
import sys
import typing
from collections.abc import Callable
from pathlib import Path

from common import unexpected
from common.errors import UserError
from common.interrupt import SIGNALS, Terminated, pass_over_signals, raise_on_termination
from common.options import option_name
from common.output import ignore_closed_output
from common.terminal import make_visible, visible

# what a path or a disk can be at fault for; everything else that the system refuses is our fault
FAULTS_OF_PATHS = {
    *(errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EROFS),
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO),
}
# what stdin and stdout can be at fault for: opened the wrong way, by others made not to wait, a connection that ended
FAULTS_OF_STREAMS = {errno.EBADF, errno.EAGAIN, errno.ECONNRESET}
LONGEST = 2000  # characters of an error that is printed


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line, as every error of the user's making, and so is a folder that is gone."""

    def __init__(self, **settings: typing.Any):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **settings)

    def parse_args(self, *given: typing.Any) -> argparse.Namespace:
        """As argparse's. Raises UserError for wrong options, and where the current folder has been deleted."""
        parsed = super().parse_args(*given)
        try:
            Path.cwd()
        except FileNotFoundError:  # half of the libraries ask for it when they are imported
            raise UserError("the folder in which you are has been deleted: cd to another") from None
        return parsed

    def error(self, message: str) -> typing.NoReturn:
        """Raises UserError, where argparse prints its usage and exits."""
        raise UserError(f"{message}; see --help")


def run_command(main: Callable[[], int | None]) -> typing.NoReturn:
    """Runs a command's `main` and ends the process: 0, 2 after a `UserError` and where the system refuses a path, 130
    after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP, 141 where nobody reads what it has to say, 70 after an error of
    ours. Whatever it is, it is one line on stderr.
    """
    end(status_of(main))


def status_of(main: Callable[[], int | None]) -> int:
    """Runs a command's `main` and returns the exit status; what went wrong is one line on stderr."""
    ignore_closed_output("stderr")  # bars and notes; what stdout is given is the work
    make_visible()
    raise_on_termination()
    try:
        status = main() or 0
        sys.stdout.flush()
        return status
    except SystemExit:  # of --help
        raise
    except BaseException as error:
        pass_over_signals()  # how it ends is settled
        return _report(error)


def _report(error: BaseException) -> int:
    """Says in one line how a command ended, and returns its status."""
    if isinstance(error, UserError):
        return _error(error.with_names(option_name), 2)
    if isinstance(error, Terminated):
        return _tell("terminated", error.status)
    if isinstance(error, KeyboardInterrupt):
        return _tell("interrupted", 128 + signal.SIGINT)
    if isinstance(error, OSError):
        _turn_away(sys.stdout)
    if isinstance(error, BrokenPipeError):
        return 128 + signal.SIGPIPE
    if isinstance(error, OSError):
        return _error(*_of_the_system(error))
    return _error(unexpected.report(error), unexpected.STATUS)  # a panic of Rust's is no Exception


def end(status: int) -> typing.NoReturn:
    """Ends the process. One that failed or was told to end does so at once: libraries' own ways of ending may wait
    for threads and processes that a signal has ended too."""
    _turn_away(sys.stdout, sys.stderr)
    if status:
        os._exit(status)
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)  # a handler would be called among what is no more
    sys.exit(0)


def _tell(said: str, status: int) -> int:
    with contextlib.suppress(OSError, ValueError):  # nobody may hear it
        print(said, file=sys.stderr, flush=True)
    return status


def _error(message: str, status: int) -> int:
    said = visible(message)
    if len(said) > LONGEST:  # a name from outside may have thousands: what it is about and what to do stand at the ends
        said = f"{said[: LONGEST // 2]} … {said[-LONGEST // 2 :]}"
    return _tell(f"error: {said}", status)


def _of_the_system(error: OSError) -> tuple[str, int]:
    """What to say about something that the system refuses, and with which status to end."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{error.strerror}: let this shell open more, `ulimit -n 1024` for instance", 2
    if error.errno in FAULTS_OF_STREAMS and not error.filename:
        return f"what is read or printed: {error.strerror}", 2
    if error.errno not in FAULTS_OF_PATHS:
        return unexpected.report(error), unexpected.STATUS
    where = f"{error.filename}: {error.strerror}; give another path"
    return where if error.filename else f"what is printed: {error.strerror}", 2


def _turn_away(*streams: typing.TextIO) -> None:
    """What the streams still hold is written; those that cannot be written to lead nowhere from now on."""
    for stream in streams:
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
