"""The world of the fault tests and one run in it that nothing disturbed."""

import ground
import pytest
from door import Door


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


@pytest.fixture(scope="session")
def scratch(tmp_path_factory):
    """The empty folder in which the commands behind the door run."""
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="session")
def door(scratch):
    opened = Door(scratch)
    yield opened
    opened.close()
