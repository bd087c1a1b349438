"""What most tests of adapters start from. A test's file may have its own."""

import pytest
import tiny


@pytest.fixture
def base(tmp_path, seed, request):
    """The folder of a random model; with the parameter False, of one with a head of its own."""
    return tiny.model_folder(tmp_path / "base", seed, tie_word_embeddings=getattr(request, "param", True))


@pytest.fixture
def ids(rng):
    return rng.integers(0, tiny.SIZES["vocab_size"], (3, 17))
