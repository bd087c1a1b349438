"""The work of one request, as asyncio sees it: handed over, waited for, and cancelled with the request."""

import asyncio
import contextlib
from collections.abc import Hashable
from typing import Any

from serving.errors import delivered, timed_out
from serving.work import Computing, Stopped, Ticket, Work


class Jobs:
    """What was submitted for one request, under keys, and what comes of it, in the order in which it comes.

    with Jobs(computing, deadline) as jobs:  # on leaving, whatever is not done is cancelled
        jobs.submit(0, work)
        key, item = await jobs.next()

    `deadline`: in the loop's time. Used in the loop's thread alone.
    """

    def __init__(self, computing: Computing, deadline: float):
        self._computing, self._deadline = computing, deadline
        self._loop = asyncio.get_running_loop()
        self._come: asyncio.Queue[tuple[Hashable, Any]] = asyncio.Queue()
        self._tickets: dict[Hashable, Ticket] = {}

    def __enter__(self) -> "Jobs":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, key: Hashable, work: Work) -> None:
        """Hands work over. Raises Busy, and what computing raises over work that it does not take."""

        def deliver(item: Any) -> None:
            """Called in the computing thread; the loop may be gone by then."""
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._come.put_nowait, (key, item))

        self._tickets[key] = self._computing.submit(work, deliver)

    async def next(self) -> tuple[Hashable, Any]:
        """What comes next, and its key. Raises ApiError for what was delivered as an exception, and at the deadline."""
        try:
            left = self._deadline - self._loop.time()
            if left > 0 and not self._come.empty():  # most often: waiting costs more than all the rest
                key, item = self._come.get_nowait()
            else:
                key, item = await asyncio.wait_for(self._come.get(), max(0.0, left))
        except asyncio.TimeoutError:
            raise timed_out() from None
        if isinstance(item, BaseException):
            raise delivered(item)
        return key, item

    async def results(self) -> dict[Hashable, Any]:
        """By key, what comes of work that has one result each."""
        found: dict[Hashable, Any] = {}
        while len(found) < len(self._tickets):
            key, item = await self.next()
            found[key] = item
        return found

    def cancel(self, key: Hashable) -> None:
        """Nothing more comes of this one, but for what is on its way."""
        self._tickets[key].cancel()

    def stop(self) -> None:
        """Whoever waits is told that the server ends."""
        self._come.put_nowait((None, Stopped()))

    def close(self) -> None:
        """Cancels everything."""
        for ticket in self._tickets.values():
            ticket.cancel()
