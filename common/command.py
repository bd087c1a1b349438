"""How every command reads its options, how it speaks, and how it ends."""

import argparse
import contextlib
import errno
import os
import signal
import sys
import typing
from collections.abc import Callable, Iterator
from pathlib import Path

from common.errors import UserError
from common.interrupt import Terminated, raise_on_sigterm

# what a path or a disk can be at fault for; everything else that the system refuses is our fault
FAULTS_OF_PATHS = {
    *(errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EROFS),
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO),
}


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line, as every error of the user's making, and so is a folder that is gone."""

    def __init__(self, **settings: typing.Any):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **settings)

    def parse_args(self, *given: typing.Any) -> argparse.Namespace:
        parsed = super().parse_args(*given)
        try:
            Path.cwd()
        except FileNotFoundError:  # half of the libraries ask for it when they are imported
            raise UserError("the folder in which you are has been deleted: cd to another") from None
        return parsed

    def error(self, message: str) -> typing.NoReturn:
        raise UserError(f"{message}; see --help")


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """What is said in the block, on stdout or stderr, may be lost: work goes on without whoever read it (`| head`)."""
    try:
        yield
        sys.stdout.flush()
    except OSError:
        _turn_away(sys.stdout, sys.stderr)


def run_command(main: Callable[[], int | None]) -> None:
    """Runs a command's `main` and ends the process: 0, 2 after a `UserError` and where the system refuses a path, 130
    after Ctrl-C, 143 after SIGTERM, 141 where nobody reads what it has to say.
    """
    raise_on_sigterm()
    try:
        status = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except Terminated:
        print("terminated", file=sys.stderr)
        status = 128 + signal.SIGTERM
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 128 + signal.SIGINT
    except BrokenPipeError:
        _turn_away(sys.stdout, sys.stderr)
        status = 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno not in FAULTS_OF_PATHS:
            raise
        _turn_away(sys.stdout)
        where = f"{error.filename}: {error.strerror}; give another path"
        print(f"error: {where if error.filename else f'what is printed: {error.strerror}'}", file=sys.stderr)
        status = 2
    sys.exit(status or 0)


def _turn_away(*streams: typing.TextIO) -> None:
    """Those of the streams that cannot be written to lead nowhere from now on."""
    for stream in streams:
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
