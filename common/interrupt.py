"""Ctrl-C, SIGTERM, SIGHUP and SIGUSR1: all raise, and all can be made to wait until what has begun is whole.

SIGHUP is a terminal that closes. SIGUSR1 asks for what SIGTERM asks for: `mpirun` passes it on, while on SIGTERM it
kills within a second. A signal that this process was started to ignore (`nohup`) stays ignored.
"""

import contextlib
import os
import signal
import threading
import typing
from collections.abc import Iterator

from common.output import write_now

TERMINATING = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
SIGNALS = (signal.SIGINT, *TERMINATING)


class Terminated(KeyboardInterrupt):
    """A signal that does what Ctrl-C does, from a scheduler, a closed terminal or a machine that shuts down.

    `status` is the exit status that shells give to it.
    """

    def __init__(self, number: int = signal.SIGTERM):
        super().__init__()
        self.status = 128 + (signal.SIGHUP if number == signal.SIGHUP else signal.SIGTERM)


def raise_on_termination() -> None:
    """From now on the TERMINATING signals raise `Terminated`."""
    for number in _heeded(TERMINATING):
        signal.signal(number, _terminate)


def pass_over_signals() -> None:
    """From now on none of them does anything here: another process heeds them, and ends this one."""
    for number in SIGNALS:
        signal.signal(number, _pass_over)  # not SIG_IGN, which the compilers that are started here would inherit


@contextlib.contextmanager
def interrupts_deferred(saying: str = "", brief: bool = False) -> Iterator[None]:
    """Holds a signal back until the block has ended, and lets it do its work then; a second one does not wait.

    `saying` is printed when the first one comes. In a block that is `brief` all wait.
    """
    if threading.current_thread() is not threading.main_thread():  # signals reach the main thread only
        yield
        return
    received = []

    def remember(number, frame):
        """Notes a signal. The second one does at once what it does elsewhere."""
        received.append(number)
        if len(received) > 1 and not brief:
            restore()
            signal.raise_signal(number)
        if saying:
            write_now(f"\n{saying}; once more ends at once\n")

    before = {number: signal.getsignal(number) for number in _heeded(SIGNALS)}

    def restore():
        """Puts the handlers from before back."""
        for number, handler in before.items():
            signal.signal(number, handler)

    try:
        for number in before:
            signal.signal(number, remember)
        yield
    finally:
        # here, so that it takes the place of an error that it brought about: it reaches programs that were started, too
        restore()
        if len(received) == 1 or (received and brief):
            signal.raise_signal(received[0])


def _heeded(numbers: tuple[int, ...]) -> list[int]:
    """Those that are not ignored; None is a handler that is not Python's."""
    return [number for number in numbers if signal.getsignal(number) not in (signal.SIG_IGN, None)]


def _terminate(number, frame) -> typing.NoReturn:
    raise Terminated(number)


def _pass_over(number, frame) -> None:
    pass


def _be_any_process() -> None:
    for number in TERMINATING:
        if getattr(signal.getsignal(number), "__module__", None) == __name__:
            signal.signal(number, signal.SIG_DFL)


# what is forked from here is ended with SIGTERM and waited for
os.register_at_fork(after_in_child=_be_any_process)
