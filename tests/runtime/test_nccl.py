"""Several processes, each with a device: which NCCL Jittor is told of, and what happens where there is none."""

import os
from pathlib import Path

import pytest
from machines import RTX_3060

from gpt2_jittor.runtime import cuda, runtime
from gpt2_jittor.runtime.cuda import driver, nccl
from gpt2_jittor.runtime.cuda.driver import Driver
from gpt2_jittor.runtime.cuda.parts import Place


@pytest.fixture
def second_of_two(machine):
    """A machine with two devices, and the second of the two processes on it."""
    machine.has_driver((13, 0), RTX_3060, RTX_3060)
    machine.has("mpicc")
    os.environ.update(OMPI_COMM_WORLD_SIZE="2", OMPI_COMM_WORLD_LOCAL_RANK="1")
    return machine


def prepared() -> dict[str, str | None]:
    """What `runtime.prepare` settles of it."""
    runtime.prepare()
    names = ("use_mpi", "use_nccl", "nccl_include_path", "nccl_lib_path", "CUDA_VISIBLE_DEVICES")
    return {name: os.environ.get(name) for name in names if name in os.environ}


def test_jittor_is_told_of_pips_nccl_which_has_the_name_that_it_looks_for(second_of_two):
    nvidia = Path(second_of_two.has_wheels()).parents[2]
    told = prepared()
    assert told["use_mpi"] == "1" and told["nccl_include_path"] == str(nvidia / "nccl/include")
    assert Path(told["nccl_lib_path"], "libnccl.so").readlink() == nvidia / "nccl/lib/libnccl.so.2"
    assert "CUDA_VISIBLE_DEVICES" not in told and "use_nccl" not in told  # Jittor gives each process its device


def test_without_nccl_nothing_is_built_and_each_process_is_shown_its_own_device(second_of_two):
    second_of_two.has_wheels(without="nvidia-nccl-cu13")
    assert prepared() == {"use_mpi": "1", "use_nccl": "0", "CUDA_VISIBLE_DEVICES": "1"}


def test_nccl_can_be_declined(second_of_two):
    second_of_two.has_wheels()
    os.environ["use_nccl"] = "0"
    assert prepared() == {"use_mpi": "1", "use_nccl": "0", "CUDA_VISIBLE_DEVICES": "1"}


def test_one_process_needs_none(second_of_two):
    second_of_two.has_wheels()
    del os.environ["OMPI_COMM_WORLD_SIZE"]
    assert prepared() == {"use_mpi": "0"}


def test_on_the_cpu_no_driver_is_asked(second_of_two, monkeypatch):
    monkeypatch.setattr(driver, "ask_apart", lambda: pytest.fail("the driver was asked"))
    assert runtime.prepare("cpu") == "cpu" and "use_nccl" not in os.environ


def test_without_a_device_nothing_is_settled(second_of_two):
    second_of_two.has_driver(None)
    assert nccl.settings() == {}


def test_a_driver_that_is_too_old_for_pips_takes_the_systems(second_of_two, tmp_path):
    second_of_two.has_wheels()
    older = Driver((12, 8), (RTX_3060,))
    assert nccl.find(older) is None
    place = Place(tmp_path / "include", tmp_path / "lib")
    for path in (place.include / "nccl.h", place.libraries / "libnccl.so"):
        path.parent.mkdir()
        path.touch()
    second_of_two.monkeypatch.setattr(nccl, "SYSTEM", (place,))
    assert nccl.find(older).place == place
    second_of_two.has_driver((12, 8))
    assert nccl.settings() == {"nccl_include_path": str(place.include), "nccl_lib_path": str(place.libraries)}


def test_the_one_that_the_environment_names_comes_first(second_of_two):
    second_of_two.has_wheels()
    named = {"nccl_include_path": "/mine/include", "nccl_lib_path": "/mine/lib"}
    os.environ.update(named)
    assert nccl.settings() == named


@pytest.mark.parametrize(
    ("visible", "rank", "own"),
    [
        (None, 0, "0"),
        (None, 3, "1"),  # more processes than devices: in turn
        ("4,6", 1, "6"),
        ("GPU-1a,GPU-2b", 0, "GPU-1a"),
        ("3", 0, "3"),  # one was chosen for each process
        ("3", 1, "3"),
    ],
)
def test_devices_are_those_that_are_visible(second_of_two, visible, rank, own):
    devices = [RTX_3060] * (len(visible.split(",")) if visible else 2)
    second_of_two.has_driver((13, 0), *devices)
    os.environ["OMPI_COMM_WORLD_LOCAL_RANK"] = str(rank)
    if visible:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible
    assert nccl.settings() == {"use_nccl": "0", "CUDA_VISIBLE_DEVICES": own}


def test_the_driver_is_asked_in_a_process_of_its_own(machine):
    asked = []
    told = Driver((13, 0), (RTX_3060,))
    machine.monkeypatch.setattr(cuda.drivers, "ask", lambda: asked.append(os.getpid()) or told)
    assert driver.ask_apart() == told and not asked
    machine.monkeypatch.setattr(cuda.drivers, "ask", lambda: os._exit(1))
    assert driver.ask_apart() == Driver()
