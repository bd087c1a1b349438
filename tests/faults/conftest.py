"""The world of the fault tests and one run in it that nothing disturbed."""

import pytest

from tests.faults import ground
from tests.faults.input_checks import InputChecks


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
    """The empty folder in which the checked commands run."""
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="session")
def checks(scratch):
    started = InputChecks(scratch)
    yield started
    started.close()
