"""How every command reads its options and how it ends."""

import argparse
import signal
import sys
import typing
from collections.abc import Callable

from common.errors import UserError
from common.interrupt import Terminated, raise_on_sigterm


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line, as every error of the user's making."""

    def __init__(self, **settings: typing.Any):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **settings)

    def error(self, message: str) -> typing.NoReturn:
        raise UserError(f"{message}; see --help")


def run_command(main: Callable[[], int | None]) -> None:
    """Runs a command's `main` and ends the process: 0, 2 after a `UserError`, 130 after Ctrl-C, 143 after SIGTERM."""
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
    except BrokenPipeError:  # the reader of our output (`| head`) has gone: nothing is left to say
        sys.stderr.close()
        status = 0
    sys.exit(status or 0)
