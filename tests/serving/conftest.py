"""Servers over a side that computes without a model: `ask` without a port, `live` on a real one."""

import asyncio
import contextlib
from pathlib import Path

import httpx
import pytest
from computing import FakeComputing, Running, served
from places import ROOT

from datasets import tasks
from gpt2_jittor.checkpoint.tokenizer import load_tokenizer
from serving.app import build
from serving.options import ServingOptions
from serving.server import PAGE, Http, bound_socket
from serving.service import Service


@pytest.fixture(scope="session")
def tokenizer():
    return load_tokenizer(ROOT / "checkpoints" / "gpt2-nano")


@pytest.fixture
def models(tokenizer):
    """A base, and an adapter of each kind on it."""
    found = {"nano": served("nano", tasks.find("text"), tokenizer)}
    labels = {"task": "classify", "labels": ["good", "bad", "plain"]}
    for name, task in (
        *((name, tasks.find(name)) for name in ("dailydialog", "chat", "squad", "instruct", "complete", "rte")),
        ("classify", tasks.find("classify", labels)),
    ):
        found[name] = served(name, task, tokenizer, parent="nano")
    return found


@pytest.fixture
def computing(models):
    with Running(FakeComputing(models)) as found:
        yield found


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


@pytest.fixture
def ask(computing):
    return Asker(computing)


@contextlib.contextmanager
def listening(computing, **options):
    """A server on a free port of this machine; its address, and its HTTP side."""
    settings = ServingOptions(port=0, **options)
    with bound_socket(settings.host, 0) as bound:
        http = Http(Service(computing, settings, Path(PAGE)), bound)
        http.start()
        try:
            http.wait_until_ready()
            yield f"http://127.0.0.1:{bound.getsockname()[1]}", http
        finally:
            http.end(10)


@pytest.fixture
def live(computing):
    """The address of a running server."""
    with listening(computing) as (address, _):
        yield address
