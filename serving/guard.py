"""Who may ask, before anything is read: the right host, the key, and only while the server takes requests.

Without a key, which only loopback may do, a page from elsewhere must not reach the server by giving its own name this
machine's address (DNS rebinding): the Host header must name this machine.
"""

import hmac
import ipaddress
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.errors import ApiError, api_error, shutting_down
from serving.responses import Json
from serving.service import Service

OPEN = ("/", "/health")  # need no key
MOST_REQUESTS = 512  # at once: each may hold a body


def refused(error: ApiError) -> Json:
    """The response that says it."""
    return Json(error.body(), error.status, error.headers)


class Guard:
    """Lets requests through to an app, or refuses them."""

    def __init__(self, app: ASGIApp, service: Service):
        self._app, self._service = app, service
        self._at_once = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        try:
            self._check(scope["path"], Headers(scope=scope))
        except ApiError as error:
            return await refused(error)(scope, receive, send)
        self._at_once += 1
        try:
            return await self._app(scope, receive, send)
        finally:
            self._at_once -= 1

    def _check(self, path: str, headers: Headers) -> None:
        options = self._service.options
        if options.api_key is None and not _names_this_machine(headers.get("host", "")):
            raise ApiError(403, "the Host header names another machine than this one", code="wrong_host")
        if options.api_key is not None and path not in OPEN:
            _check_key(headers.get("authorization", ""), options.api_key)
        if self._service.closing:
            raise shutting_down()
        if self._at_once >= MOST_REQUESTS:
            raise ApiError(429, "too many requests at once", code="rate_limit_exceeded", headers={"Retry-After": "1"})


class Watch:
    """Counts and times requests, and is the last to hear of errors: none leaves here with a traceback."""

    def __init__(self, app: ASGIApp, service: Service, paths: tuple[str, ...]):
        self._app, self._metrics, self._paths = app, service.metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request. What is no HTTP is closed without a word."""
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1000})
        if scope["type"] != "http":
            return None
        status, started = 0, time.perf_counter()

        async def noting(message: Message) -> None:
            """Sends, and remembers the status."""
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception as error:
            if not status:
                await refused(api_error(error))(scope, receive, noting)
        finally:
            path = next((each for each in self._paths if scope["path"] == each), "other")
            self._metrics.requests.labels(path, status).inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - started)
        return None


def _names_this_machine(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() and not host.endswith("]") else host
    name = name.strip("[]").rstrip(".").lower()
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def _check_key(header: str, key: str) -> None:
    scheme, _, given = header.partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("utf-8"), key.encode("utf-8")):
        message = "the API key is wrong" if header else "an API key is needed: send Authorization: Bearer KEY"
        raise ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
