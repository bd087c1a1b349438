"""What most tests of GGUF files start from, and where they write."""

import pytest
from gguf_files import gpt2_folder


@pytest.fixture
def base(tmp_path, seed):
    """The folder of a random model with a tokenizer that has merges."""
    return gpt2_folder(tmp_path / "base", seed)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out" / "model.gguf"
