"""Fixtures that any test may ask for."""

import os

import numpy as np
import pytest


@pytest.fixture
def seed() -> int:
    """Fresh for each test. A failing test shows it; `TEST_SEED=… pytest …` runs with it again."""
    value = int(os.environ.get("TEST_SEED", np.random.SeedSequence().entropy % 2**32))
    print(f"TEST_SEED={value}")
    return value


@pytest.fixture
def rng(seed) -> np.random.Generator:
    return np.random.default_rng(seed)
