"""A piece of work that the computing side has taken, and who is told what comes of it."""

import sys
from collections.abc import Callable
from typing import Any

from common import unexpected
from serving.models import Place
from serving.work import Work


class Ticket:
    """A piece of work and who is told of it."""

    def __init__(self, work: Work, deliver: Callable[[Any], None]):
        self.work, self._deliver = work, deliver
        self.cancelled = False
        self.place: Place | None = None

    def cancel(self) -> None:
        """As of `work.Ticket`."""
        self.cancelled = True

    def tell(self, event: Any) -> None:
        """Delivers an event, unless nobody wants it any more."""
        if self.cancelled:
            return
        try:
            self._deliver(event)
        except Exception:  # who asked is gone
            self.cancelled = True


def report(error: Exception) -> None:
    """Says in one line on stderr what nobody expected."""
    print(f"error: {unexpected.report(error)}", file=sys.stderr, flush=True)
