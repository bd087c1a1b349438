"""A bound on how long something may take that data from outside could make endless."""

import contextlib
import signal
import threading
import typing
from collections.abc import Callable, Iterator


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
        """SIGALRM's handler: the time is over."""
        raise otherwise

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def in_time(work: Callable[[], typing.Any], seconds: float, otherwise: Exception) -> typing.Any:
    """What `work` returns or raises. Raises `otherwise` where it takes longer, or where it panics, as Rust's code does.

    It runs in a thread of its own, which goes on after `seconds` until the process ends: also what never looks at
    signals is left behind, if only it lets other threads run.
    """
    result: list = []

    def run() -> None:
        """Leaves one pair in `result`: what `work` returned, or what it raised."""
        try:
            result.append((work(), None))
        except BaseException as error:
            result.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not result:
        raise otherwise
    value, error = result[0]
    if type(error).__name__ == "PanicException":  # no Exception, and nothing that could be imported to be caught
        raise otherwise
    if error is not None:
        raise error
    return value
