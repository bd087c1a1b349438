"""Servers over a side that computes without a model: `ask` without a port, `live` on a real one; and `serve.py`."""

import pytest
from asking import Asker, listening
from computing import FakeComputing, Running, served
from places import ROOT

from datasets import tasks
from gpt2_jittor.checkpoint.tokenizer import load_tokenizer


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


@pytest.fixture
def ask(computing):
    return Asker(computing)


@pytest.fixture
def live(computing):
    """The address of a running server."""
    with listening(computing) as (address, _):
        yield address


@pytest.fixture(scope="session")
def real(tmp_path_factory):
    """`serve.py` with nano and three adapters, once for all; `folders` has the adapters by name."""
    import real_server  # needs PEFT, which takes seconds to import

    folders = real_server.make_adapters(tmp_path_factory.mktemp("adapters"), seed=5)
    server = real_server.RealServer("--model", "nano", *real_server.adapter_options(folders))
    server.folders = folders
    try:
        yield server
        said = server.said()  # a first start says that it compiles
        assert server.poll() is None and "Traceback" not in said and "error" not in said, said
    finally:
        server.close()


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """A tiny model's folder, for a batcher of real models."""
    import tiny

    return tiny.model_folder(tmp_path_factory.mktemp("served") / "base", seed=5)


@pytest.fixture(scope="session")
def folders(base, tmp_path_factory):
    """Its adapters' folders by name."""
    import batching

    return batching.made(base, tmp_path_factory.mktemp("adapters"))


@pytest.fixture(scope="session")
def theirs(base, folders):
    """PEFT's model of each name."""
    import batching

    return batching.theirs_of(base, folders)


@pytest.fixture
def batcher(base, folders):
    """A batcher of them all."""
    import batching

    return batching.Batcher(batching.models_of(base, folders), piece=16)


@pytest.fixture(scope="session")
def browser():
    """Chromium."""
    from browsing import CHROMIUM, sync_api

    if CHROMIUM is None:
        pytest.skip("no chromium is installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def server():
    """The page's server, whose answers are known."""
    from chat_server import ChatServer

    with ChatServer() as server:
        yield server


@pytest.fixture
def open_page(browser, server):
    """Opens the page; at the end nothing may have been asked of elsewhere, and nothing said in the console."""
    from browsing import DESKTOP, is_problem

    contexts, problems = [], []

    def opened(viewport=DESKTOP, locale="en-US", **settings):
        context = browser.new_context(viewport=viewport, locale=locale, **settings)
        context.set_default_timeout(5000)
        contexts.append(context)
        page = context.new_page()
        here = (server.address, "data:")
        page.on("request", lambda request: request.url.startswith(here) or problems.append(request.url))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: (problems.append(dialog.message), dialog.dismiss()))
        page.on("console", lambda said: is_problem(said) and problems.append(said.text))
        page.goto(server.address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert problems == []


@pytest.fixture
def page(open_page):
    """It, at a desktop's size."""
    from browsing import expect

    page = open_page()
    expect(page.get_by_label("Model", exact=True)).to_have_value("talker")  # the first adapter
    return page
