"""What most tests of data sets encode with. A test's file may have its own."""

import pytest
from tiny import byte_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """One id a byte; the end token is 256."""
    return byte_tokenizer(tmp_path_factory.mktemp("tokenizer"))
