"""Fixtures that any test may ask for."""

import contextlib
import os
import signal
from unittest import mock

import numpy as np
import pytest

# a shell lets what it starts in the background ignore Ctrl-C, `nohup` a closed terminal; so would all that tests start
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


_ended = []  # workers of xdist's that should not have


def pytest_testnodedown(node, error):
    """Notes how such a worker ended, which xdist does not say."""
    if error:
        _ended.append(f"{node.gateway.id} ended with status {node.gateway._io.popen.wait(10)}; below 0: by that signal")


def pytest_terminal_summary(terminalreporter):
    for line in _ended:
        terminalreporter.line(line)


@pytest.fixture
def seed() -> int:
    """Fresh for each test. A failing test shows it; `TEST_SEED=… pytest …` runs with it again."""
    value = int(os.environ.get("TEST_SEED", np.random.SeedSequence().entropy % 2**32))
    print(f"TEST_SEED={value}")
    return value


@pytest.fixture
def rng(seed) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A made-up machine, and an environment that gets everything back, what `runtime.prepare` sets included."""
    from machines import Machine

    with mock.patch.dict(os.environ):
        yield Machine(tmp_path, monkeypatch)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub on this machine with one repository, as a model's and a data set's alike; `content` is what it holds."""
    from hub_server import Hub, settings_for

    with Hub() as hub:
        hub.content = hub.files["owner/set"] = hub.files["datasets/owner/set"] = {}
        settings_for(hub, monkeypatch, str(tmp_path / "home"))
        yield hub


@pytest.fixture(params=["fused", "composed", "cuda"])
def way(request):
    """Runs a test three times: as the device does without being asked, composed, and with the kernels for CUDA."""
    from gpt2_jittor.ops import fused  # imports Jittor, which not every test needs

    if request.param == "cuda":
        import cuda_kernels

        chosen = cuda_kernels.turned_on()
    else:
        chosen = fused.composed_only() if request.param == "composed" else contextlib.nullcontext()
    with chosen:
        yield request.param
