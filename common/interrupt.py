"""Ctrl-C, SIGTERM and SIGUSR1: all raise, and all can be made to wait until what has begun is whole.

SIGUSR1 asks for what SIGTERM asks for. `mpirun` passes it on, while on SIGTERM it kills within a second.
"""

import contextlib
import os
import signal
import sys
import threading
import typing
from collections.abc import Iterator

TERMINATING = (signal.SIGTERM, signal.SIGUSR1)
SIGNALS = (signal.SIGINT, *TERMINATING)


class Terminated(KeyboardInterrupt):
    """SIGTERM: what Ctrl-C does, from a scheduler or a machine that shuts down."""


def raise_on_sigterm() -> None:
    """From now on SIGTERM and SIGUSR1 raise `Terminated`."""
    for number in TERMINATING:
        signal.signal(number, _terminate)


def pass_over_signals() -> None:
    """From now on none of them does anything here: another process heeds them, and ends this one."""
    for number in SIGNALS:
        signal.signal(number, _pass_over)  # not SIG_IGN, which the compilers that are started here would inherit


@contextlib.contextmanager
def interrupts_deferred(saying: str = "") -> Iterator[None]:
    """Holds a signal back until the block has ended, and lets it do its work then; a second one does not wait.

    `saying` is told when the first one comes.
    """
    if threading.current_thread() is not threading.main_thread():  # signals reach the main thread only
        yield
        return
    received = []

    def remember(number, frame):
        received.append(number)
        if len(received) > 1:
            restore()
            signal.raise_signal(number)
        if saying:
            print(f"\n{saying}; once more ends at once", file=sys.stderr, flush=True)

    before = {number: signal.signal(number, remember) for number in SIGNALS}

    def restore():
        for number, handler in before.items():
            signal.signal(number, handler)

    try:
        yield
    finally:
        # here, so that it takes the place of an error that it brought about: Ctrl-C reaches the compiler too
        restore()
        if len(received) == 1:
            signal.raise_signal(received[0])


def _terminate(number, frame) -> typing.NoReturn:
    raise Terminated


def _pass_over(number, frame) -> None:
    pass


def _be_any_process() -> None:
    for number in TERMINATING:
        if getattr(signal.getsignal(number), "__module__", None) == __name__:
            signal.signal(number, signal.SIG_DFL)


# what is forked from here, such as Jittor's pool of compilers, is ended with SIGTERM and waited for
os.register_at_fork(after_in_child=_be_any_process)
