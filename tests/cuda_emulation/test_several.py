"""Two processes on two emulated devices, their sums by NCCL's stand-in and over the host: the losses of one process."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from open_mpi import MPIRUN, SETTINGS
from places import ROOT

from gpt2_jittor.runtime import runtime
from gpt2_jittor.runtime.cuda import nccl, parts
from tests.cuda_emulation import home

pytestmark = [
    pytest.mark.cuda_emulation,
    pytest.mark.skipif(MPIRUN is None, reason=f"no mpirun: {runtime.INSTALL_MPI}"),
    pytest.mark.skipif(home.on_device(), reason="the machine's own devices are not counted"),
]

TWO = [MPIRUN, "-np", "2"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return tiny.still_world(tmp_path_factory.mktemp("world"))


def trained(world, name: str, launcher: list, **more: str) -> tuple[list[float], list[dict]]:
    """The losses of ten updates, and what each process asked of its device."""
    report = world / f"{name}.report"
    given = ["--task", "dailydialog", "--model", world / "model", "--data-dir", world / "data", "--device", "cuda"]
    given += ["--output-dir", world / name, "--batch-size", 4, "--max-length", 60, "--lora-r", 2, "--lora-dropout", 0]
    given += ["--learning-rate", 1e-2, "--max-steps", 10]
    environment = home.environment() | SETTINGS | {"CUDA_EMULATION_REPORT": str(report)} | more
    command = [str(word) for word in (*launcher, sys.executable, "train.py", *given)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [line["loss"] for line in lines(world / name / "metrics.jsonl")], lines(report)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def losses_of_one(world) -> list[float]:
    return trained(world, "one", [])[0]


@pytest.mark.parametrize("way", ["nccl", "host"])
def test_two_processes_with_a_device_each_have_the_losses_of_one(world, losses_of_one, way):
    told = named(home.HERE / "runtime", home.build() / "lib64") if way == "nccl" else {"use_nccl": "0"}
    losses, devices = trained(world, way, TWO, CUDA_EMULATION_DEVICES="2", **told)
    np.testing.assert_allclose(losses, losses_of_one, rtol=1e-4)  # sums in another order, over the steps
    busy = [device for device in devices if device["launches"]]
    assert len(busy) == 2
    assert all(("ncclAllReduce" in device["kernels"]) == (way == "nccl") for device in busy)


@pytest.mark.skipif(not parts.version_of(nccl.WHEEL), reason="pip install -r requirements-cuda.txt")
def test_with_the_real_nccl_compiled_in_and_loaded_two_processes_on_one_device_sum_over_the_host(world, losses_of_one):
    """It cannot be called without a GPU, and is not where a device has several processes."""
    header, library = (parts.file_of(nccl.WHEEL, end) for end in ("include/nccl.h", "lib/libnccl.so.2"))
    losses, _ = trained(world, "wheel", TWO, CUDA_EMULATION_DEVICES="1", **named(header.parent, library.parent))
    np.testing.assert_allclose(losses, losses_of_one, rtol=1e-4)


def named(include: Path, libraries: Path) -> dict[str, str]:
    return {"nccl_include_path": str(include), "nccl_lib_path": str(libraries)}
