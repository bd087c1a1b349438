"""Ctrl-C that waits: an update is made whole or not at all, so that what is saved after it is a step of the run."""

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Holds a Ctrl-C back until the block has ended, and raises it as KeyboardInterrupt then."""
    if threading.current_thread() is not threading.main_thread():  # signals reach the main thread only
        yield
        return
    received = []
    before = signal.signal(signal.SIGINT, lambda number, frame: received.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if received:
        raise KeyboardInterrupt
