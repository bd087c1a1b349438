"""What importing Jittor does to the whole process, undone.

Jittor ends the process on Ctrl-C and on SIGTERM, so that nothing could be saved; it switches off the checks of
HTTPS certificates; it allows recursion without end; it writes its compiler's progress over our bar.
"""

import contextlib
import os
import re
import signal
import ssl
import sys
import threading
import warnings
from collections.abc import Iterator

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGQUIT", "SIGCHLD") if hasattr(signal, name)]
JUPYTER = "JPY_PARENT_PID"  # where it is set, Jittor's core lets Ctrl-C be from its first moment
CHATTER = re.compile(r"\s*(Compiling Operators\(.*)?$")


@contextlib.contextmanager
def settings_kept() -> Iterator[None]:
    """Puts back, at its end, what the import of Jittor changes."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    in_jupyter = os.environ.setdefault(JUPYTER, "0")
    verified_https, recursion_limit = ssl._create_default_https_context, sys.getrecursionlimit()
    try:
        yield
    finally:
        if in_jupyter == "0":
            del os.environ[JUPYTER]
        ssl._create_default_https_context = verified_https
        sys.setrecursionlimit(recursion_limit)
        if threading.current_thread() is threading.main_thread():  # nobody else may set handlers
            for number, handler in handlers.items():
                signal.signal(number, handler)


class Filtered:
    """A stream for Jittor's C++ side: drops the progress of its compiler, passes whatever else it says."""

    def __init__(self):
        self._line = ""

    def write(self, text: str) -> int:
        *lines, self._line = re.split(r"[\r\n]", self._line + text)
        for line in lines:
            if not CHATTER.match(line):
                print(line, file=sys.stderr, flush=True)
        return len(text)

    def flush(self) -> None:
        pass


def ignore_flushed_subnormals() -> None:
    """Silences numpy's warning that numbers below 1e-38 are 0: kernels compiled with -Ofast set the processor so."""
    warnings.filterwarnings("ignore", message="The value of the smallest subnormal")


def silence_compiler(utilities) -> None:
    """Sends the C++ error stream of `utilities`, Jittor's core of helpers, through a filter."""
    before, sys.stderr = sys.stderr, Filtered()
    try:
        utilities.ostream_redirect(False, True)  # it takes what sys.stderr is at this moment
    finally:
        sys.stderr = before
