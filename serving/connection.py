"""A client's connection: closed where no request comes of it, and where there are too many."""

import asyncio
import resource

from uvicorn.protocols.http.h11_impl import H11Protocol

MOST = 4096  # connections at once, and no more than half of the files that the process may open


class Connection(H11Protocol):
    """uvicorn's, which waits for ever for a first request, and for the end of a request's head."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        """From now on a request's head must come, whole, as it must behind an answer."""
        super().connection_made(transport)
        if len(self.connections) > most_connections():
            transport.abort()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def data_received(self, data: bytes) -> None:
        """Part of a head does not put it off."""
        waiting, self.timeout_keep_alive_task = self.timeout_keep_alive_task, None
        answering = self.cycle
        super().data_received(data)
        if waiting is None:
            return
        if self.cycle is answering:
            self.timeout_keep_alive_task = waiting
        else:
            waiting.cancel()


def most_connections() -> int:
    """How many there may be."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if files == resource.RLIM_INFINITY else min(MOST, files // 2)
