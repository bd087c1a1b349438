"""Servers over a side that computes without a model: `ask` without a port, `live` on a real one."""

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
