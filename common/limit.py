"""A bound on how long something may take that data from outside could make endless."""

import contextlib
import signal
import threading
import typing
from collections.abc import Iterator


@contextlib.contextmanager
def at_most(seconds: float, otherwise: Exception) -> Iterator[None]:
    """Raises `otherwise` in the block when the time is over.

    Works where Python looks at signals, as it does within a regular expression's search, and in the main thread of a
    POSIX process; elsewhere the block takes what it takes.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def over(number, frame) -> typing.NoReturn:
        raise otherwise

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
