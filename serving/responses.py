"""Answers as they travel: JSON at once, or server-sent events in OpenAI's form, `data: {…}` up to `data: [DONE]`."""

import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serving.errors import api_error

PING = 15  # seconds without a word after which proxies are told that the stream lives
STALLED = 60.0  # seconds after which a client that takes nothing is gone


def dumped(value: Any) -> str:
    """JSON as compact as it goes."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


class Json(Response):
    """A JSON body."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The body's bytes."""
        return dumped(content).encode("utf-8")


class Stream:
    """A response of JSON values as they come. `close` is called at its end, whoever brings it about.

    An error after the first byte, whose status has gone out already, is an event of its own.
    """

    def __init__(self, values: AsyncIterator[Any], close: Callable[[], None]):
        self._values, self._close = values, close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends it. A client that is gone, or takes nothing, ends it."""
        response = EventSourceResponse(self._events(), sep="\n", ping=PING, send_timeout=STALLED)
        try:
            with contextlib.suppress(TimeoutError):  # of a stalled client
                await response(scope, receive, send)
        finally:
            self._close()

    async def _events(self) -> AsyncIterator[ServerSentEvent]:
        try:
            async for value in self._values:
                yield ServerSentEvent(dumped(value), sep="\n")
        except Exception as error:
            yield ServerSentEvent(dumped(api_error(error).body()), sep="\n")
        yield ServerSentEvent("[DONE]", sep="\n")


class Envelope:
    """What every part of one answer says of itself."""

    def __init__(self, prefix: str, kind: str, model: str):
        self._said = {
            "id": f"{prefix}-{secrets.token_hex(12)}",
            "object": kind,
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": None,
        }

    def around(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """The choices with all that."""
        return {**self._said, "choices": choices, **more}


def usage(prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> dict[str, Any]:
    """What was read, how much of that without computing it again, and what was written."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
    }
