"""A model, and what consoles talk to. A test's file may have a folder of its own, and gets that one's model."""

import pytest
import tiny
from console import reply_by_number

from gpt2_jittor import GPT2LMHeadModel
from gpt2_jittor.checkpoint.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.model_folder(tmp_path_factory.mktemp("model"), seed=1, vocab_size=257)


@pytest.fixture(scope="module")
def model(folder):
    return GPT2LMHeadModel.from_pretrained(folder)


@pytest.fixture
def shown(folder, monkeypatch) -> list[str]:
    """What the model was shown, which says " reply 1. ", " reply 2. " … in turn."""
    return reply_by_number(monkeypatch, load_tokenizer(folder))
