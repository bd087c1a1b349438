"""Requests to the server's app, without a port or on a real one."""

import asyncio
import contextlib

import httpx

from serving.app import build
from serving.options import ServingOptions
from serving.server import PAGE, Http, bound_socket
from serving.service import Service


class Asker:
    """Requests to an app without a port, one event loop each."""

    def __init__(self, computing, **options):
        self.service_options = ServingOptions(**options)
        self.computing = computing

    def __call__(self, method: str, path: str, **given) -> httpx.Response:
        return asyncio.run(self._ask(method, path, given))

    def post(self, path: str, **body) -> httpx.Response:
        return self("POST", path, json=body)

    async def _ask(self, method, path, given):
        service = Service(self.computing, self.service_options, PAGE)
        transport = httpx.ASGITransport(build(service), raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
            try:
                return await client.request(method, path, **given)
            finally:
                service.close()


@contextlib.contextmanager
def listening(computing, **options):
    """A server on a free port of this machine; its address, and its HTTP side."""
    settings = ServingOptions(port=0, **options)
    with bound_socket(settings.host, 0) as bound:
        http = Http(Service(computing, settings, PAGE), bound)
        http.start()
        try:
            http.wait_until_ready()
            yield f"http://127.0.0.1:{bound.getsockname()[1]}", http
        finally:
            http.end(10)
