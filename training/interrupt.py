"""Ctrl-C and SIGTERM that wait: an update is made whole or not at all, so that what is saved after it is a step."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Holds a signal back until the block has ended, and lets it do its work then; a second one does not wait."""
    if threading.current_thread() is not threading.main_thread():  # signals reach the main thread only
        yield
        return
    received = []

    def remember(number, frame):
        received.append(number)
        if len(received) > 1:
            restore()
            signal.raise_signal(number)
        print("\nfinishing this step, then saving; once more ends at once", file=sys.stderr, flush=True)

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
