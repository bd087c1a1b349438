"""What tests of models that are only read start from. A test's file may have its own."""

import pytest
import tiny


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The folder of a random model, the same for a file's tests."""
    return tiny.model_folder(tmp_path_factory.mktemp("base"), seed=1)
