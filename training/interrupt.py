"""Ctrl-C that waits: an update is made whole or not at all, so that what is saved after it is a step of the run."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Holds a Ctrl-C back until the block has ended, and raises KeyboardInterrupt then; a second one does not wait."""
    if threading.current_thread() is not threading.main_thread():  # signals reach the main thread only
        yield
        return
    received = []

    def remember(number, frame):
        if received:
            raise KeyboardInterrupt
        received.append(number)
        print("\nfinishing this step, then saving; once more Ctrl-C ends at once", file=sys.stderr, flush=True)

    before = signal.signal(signal.SIGINT, remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if received:
        raise KeyboardInterrupt
