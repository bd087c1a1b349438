"""The world of the fault tests and one run in it that nothing disturbed."""

import ground
import pytest


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    return ground.build_world(tmp_path_factory.mktemp("ground"))


@pytest.fixture(scope="session")
def undisturbed(world):
    """The folder of a run of 12 steps over 2 epochs and more."""
    run_dir = world / "undisturbed"
    result = ground.command(ground.training(world, run_dir, "--max-steps", 12))
    assert result.returncode == 0, result.stderr
    return run_dir
