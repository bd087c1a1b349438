"""This project's CUDA kernels inside Jittor's CUDA build, on the emulated device: `tools/cuda/operators.py`."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from places import ROOT

from tests.cuda_emulation import home

pytestmark = [
    pytest.mark.cuda_emulation,
    pytest.mark.skipif(home.on_device(), reason="only the emulated device counts launches and copies"),
    pytest.mark.skipif(not home.installed(), reason=f"{home.WHEEL} is not installed: {home.INSTALL}"),
]


@pytest.fixture(scope="module")
def reports() -> dict:
    """What a training step, a validation batch and an answer compute, run and copy, composed and with the kernels."""

    def report(kernels: str) -> dict:
        done = subprocess.run(
            [sys.executable, "-m", "tools.cuda.operators"],
            env=home.environment() | {"GPT2_JITTOR_CUDA_KERNELS": kernels},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return json.loads(done.stdout.splitlines()[-1])["works"]

    return {"composed": report("0"), "kernels": report("1")}


def test_the_kernels_compute_what_the_composed_operators_compute(reports):
    for name, composed in reports["composed"].items():
        # float32 rounds at 6e-8, and the order of sums of some hundred terms differs
        np.testing.assert_allclose(reports["kernels"][name]["result"], composed["result"], rtol=2e-5, err_msg=name)


def test_the_kernels_take_fewer_launches_and_copy_no_more(reports):
    for name, composed in reports["composed"].items():
        before, after = composed["counts"], reports["kernels"][name]["counts"]
        assert after["launches"] < before["launches"], name
        assert after["products"] <= before["products"], name
        assert after["copies_to_host"] <= before["copies_to_host"], name


def test_the_kernels_run_where_they_were_turned_on_alone(reports):
    own = {"attention_rows", "cross_entropy_rows", "layer_norm_rows"}

    def holds_own(work: dict) -> bool:
        sources = [Path(operator["source"]) for operator in work["operators"]]
        return any(name in path.read_text() for path in sources if path.is_file() for name in own)

    assert all(holds_own(work) for work in reports["kernels"].values())
    assert not any(holds_own(work) for work in reports["composed"].values())
