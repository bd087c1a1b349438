"""What all endpoints share: the side that computes, the bounds, and one thread that makes ids of texts."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from serving.body import Fields, parse, short
from serving.errors import ApiError, timed_out
from serving.jobs import Jobs
from serving.metrics import Metrics
from serving.options import ServingOptions
from serving.work import Computing, Served, Work

BODY_SECONDS = 60  # for a request's body to arrive
DISCARDED = 32 << 20  # bytes of a body that is too long are read, so that its sender reads the answer
Result = TypeVar("Result")


class Service:
    """A running server. `closing`: it takes no new requests. Used in the loop's thread alone, but for `closing`."""

    def __init__(self, computing: Computing, options: ServingOptions, page: Path):
        self.computing, self.options, self.page = computing, options, page
        self.metrics = Metrics(computing)
        self.closing = False
        self._running: set[Jobs] = set()
        # one: a tokenizer's settings change with what it reads, and are not to be changed by two
        self._encoding = ThreadPoolExecutor(1, "encoding")

    @property
    def most_work(self) -> int:
        """How many pieces of work one request may make: it hands them over at once, and so all of them wait."""
        return self.options.max_waiting

    def served(self, name: str) -> Served:
        """The model of a name. Raises ApiError, a 404, where there is none."""
        if (found := self.computing.models.get(name)) is None:
            message = f"the model {short(name)} does not exist: GET /v1/models lists those that do"
            raise ApiError(404, message, "model", "model_not_found")
        return found

    def named(self, fields: Fields) -> Served:
        """The model that a request names. Raises ApiError where it names none that is there."""
        return self.served(fields.required_text("model"))

    async def fields(self, request: Request) -> Fields:
        """A request's body. Raises ApiError for one that is too long, slow, or no JSON object."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":  # what a page of any site may send without asking first is not taken
            raise ApiError(415, "the body must be JSON: send Content-Type: application/json")
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise ApiError(415, "the body must not be compressed: leave out Content-Encoding")
        try:
            data = await asyncio.wait_for(_read(request, self.options.max_body), BODY_SECONDS)
        except asyncio.TimeoutError:
            raise ApiError(408, f"the body did not arrive within {BODY_SECONDS} s") from None
        return Fields(parse(data))

    async def encoded(self, request: Request, work: Callable[..., Result], *given: Any) -> Result:
        """What `work`, which uses a tokenizer to make ids, returns or raises; the loop goes on meanwhile.

        It is not begun any more once the client has gone or its time is over. The body must have been read.
        """
        working = asyncio.get_running_loop().run_in_executor(self._encoding, work, *given)
        try:
            return await asyncio.wait_for(while_connected(request, working), self.options.timeout)
        except asyncio.TimeoutError:
            raise timed_out() from None

    @contextlib.contextmanager
    def jobs(self) -> Iterator[Jobs]:
        """The work of one request; cancelled on leaving."""
        with Jobs(self.computing, asyncio.get_running_loop().time() + self.options.timeout) as jobs:
            self._running.add(jobs)
            try:
                yield jobs
            finally:
                self._running.discard(jobs)

    def end(self) -> None:
        """Whoever still waits is told that the server ends."""
        for jobs in self._running:
            jobs.stop()

    def close(self) -> None:
        """Ends the thread."""
        self._encoding.shutdown(wait=False, cancel_futures=True)


async def while_connected(request: Request, work: Awaitable[Result]) -> Result:
    """What `work` returns or raises. It is cancelled, and ClientDisconnect raised, when the client goes.

    The body must have been read.
    """
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        for task in (working, gone):
            task.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def results_of(request: Request, work: Sequence[Work]) -> list[Any]:
    """What comes of each piece of work, in order. Errors as of `Jobs.next` and `while_connected`."""
    service: Service = request.app.state.service
    with service.jobs() as jobs:
        for index, each in enumerate(work):
            jobs.submit(index, each)
        found = await while_connected(request, jobs.results())
    return [found[index] for index in range(len(work))]


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _read(request: Request, most: int) -> bytes:
    """The body, up to `most` bytes. Raises ApiError for a longer one, which is not kept."""
    declared = request.headers.get("content-length", "0")
    too_long = int(declared) > most if declared.isdecimal() and len(declared) < 20 else True
    if too_long and request.headers.get("expect", "").lower() == "100-continue":
        raise _too_long(most)
    parts, length = [], 0
    async for part in request.stream():
        length += len(part)
        if length <= most and not too_long:
            parts.append(part)
        elif length > DISCARDED:
            break
    if too_long or length > most:
        raise _too_long(most)
    return b"".join(parts)


def _too_long(most: int) -> ApiError:
    return ApiError(413, f"the body is longer than {most} bytes", code="request_too_large")
