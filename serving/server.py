"""One process, two threads: the main one computes, the other one speaks HTTP; and how both come to an end.

The first signal (Ctrl-C, SIGTERM, SIGHUP) lets nothing new in, and lets what runs finish; a second one ends at once.
"""

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import uvicorn

from common.errors import ParameterError
from common.interrupt import SIGNALS
from common.output import write_now
from serving.app import build
from serving.connection import Connection
from serving.options import ServingOptions
from serving.service import Service
from serving.work import Computing

PAGE = Path(__file__).with_name("page.html")
LAST_WORDS = 5  # seconds for answers that are computed to reach their clients
HOPS = 8  # turns of the loop from a token that was handed over to its bytes
PATIENCE = 0.1  # seconds that computing waits for them
KEEP_ALIVE = 30  # seconds for a request to begin and its head to come, on a connection that has none


class Batcher(Computing, Protocol):
    """The side that computes, as this file starts and stops it."""

    def run(self, between: Callable[[], None]) -> None:
        """Computes, in the thread that calls it, until `stop`, and finishes what was taken by then.

        `between` is called between two tokens or so, where other threads should get their turn.
        """

    def stop(self, grace: float) -> None:
        """From any thread, and without waiting: `run` returns once nothing runs, after `grace` seconds in any case."""


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket at an address, which nobody can connect to yet. Raises UserError where it cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
        except BaseException:
            found.close()
            raise
    except OSError as error:
        template = "cannot listen on {0}:{1} ({2}): give another {port}, or another {host}"
        raise ParameterError(template, host, port, error.strerror or error) from None
    return found


def serve(batcher: Batcher, options: ServingOptions, listening: socket.socket) -> None:
    """Serves until a signal comes, prints one line once requests are taken, and ends as that signal ends a command.

    Raises what ends either thread.
    """
    http = Http(Service(batcher, options, PAGE), listening, lambda: batcher.stop(0))
    with HeldSignals(lambda: http.close(lambda: batcher.stop(options.grace)), options.grace) as signals:
        http.start()
        try:
            http.wait_until_ready()
            names = ", ".join(batcher.models)
            print(f"serving {names} on {_address(listening)} (page: /, API: /v1)", flush=True)
            batcher.run(http.let_run)
        finally:
            http.end(LAST_WORDS + 2 if len(signals.received) < 2 else 0)
    if http.error is not None:
        raise http.error


class Http:
    """The thread that speaks HTTP. `error`: what ended it, None where it was told to; then `ended` is called."""

    def __init__(self, service: Service, listening: socket.socket, ended: Callable[[], None] = lambda: None):
        self._service, self._listening, self._ended = service, listening, ended
        self._server: uvicorn.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        self.error: BaseException | None = None

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def wait_until_ready(self) -> None:
        """Returns once requests are taken. Raises what prevents it."""
        self._ready.wait()
        if self.error is not None:
            raise self.error

    def close(self, then: Callable[[], None]) -> None:
        """From now on requests are refused; `then` is called in this thread. Safe in a signal handler."""
        self._service.closing = True
        self._call(then)

    def let_run(self) -> None:
        """Waits until what was handed over has gone out, for a moment at most.

        Jittor computes without ever giving up the interpreter's lock, so else this thread would fall behind.
        """
        done = threading.Event()

        def later(hops: int) -> None:
            self._loop.call_soon(later, hops - 1) if hops else done.set()

        with contextlib.suppress(RuntimeError):  # the loop has ended, and so will the caller
            self._loop.call_soon_threadsafe(later, HOPS)
            done.wait(PATIENCE)

    def end(self, seconds: float) -> None:
        """Tells whoever still waits that the server ends, and waits so long until answers have gone out."""
        self._service.closing = True
        self._call(self._service.end)
        if self._server is not None:
            self._server.should_exit = True
        self._thread.join(seconds)

    def _call(self, function: Callable[[], None]) -> None:
        """Lets the loop call it; where none runs, it is called here."""
        try:
            self._loop.call_soon_threadsafe(function)
        except (AttributeError, RuntimeError):
            function()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self.error = error
        finally:
            self._service.close()
            self._ready.set()
            self._ended()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        config = uvicorn.Config(
            build(self._service),
            loop="asyncio",
            http=Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",  # errors of ours are told by the app, each in a line
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=LAST_WORDS,
        )
        self._server = uvicorn.Server(config)
        serving = asyncio.ensure_future(self._server.serve(sockets=[self._listening]))
        while not self._server.started and not serving.done():
            await asyncio.sleep(0.01)
        if not serving.done():  # else an error is on its way out, which is told before that it is ready
            self._ready.set()
        await serving


class HeldSignals:
    """Within it, the first signal calls `stop`, and does what it does elsewhere at the end; a second one, at once."""

    def __init__(self, stop: Callable[[], None], grace: float):
        self.received: list[int] = []
        self._stop, self._grace = stop, grace
        handlers = {number: signal.getsignal(number) for number in SIGNALS}
        self._before = {n: handler for n, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}

    def __enter__(self) -> "HeldSignals":
        for number in self._before:
            signal.signal(number, self._heed)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()
        if len(self.received) == 1:
            signal.raise_signal(self.received[0])

    def _heed(self, number: int, frame: object) -> None:
        self.received.append(number)
        if len(self.received) > 1:
            self._restore()
            signal.raise_signal(number)
        write_now(f"\nno new requests; what runs has {self._grace:g} s to finish; once more ends at once\n")
        self._stop()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
