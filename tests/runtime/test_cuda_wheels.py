"""What `make setup` installs of CUDA, on made-up machines with a made-up pip."""

import subprocess
import sys

import pytest
from machines import RTX_3060, Machine, program
from places import ROOT

from common.errors import UserError
from gpt2_jittor.runtime.cuda import wheels
from gpt2_jittor.runtime.cuda.driver import Device

GTX_1060 = Device("NVIDIA GeForce GTX 1060", 6_000_000_000, (6, 1))


def setup(machine: Machine, capsys, status: int = 0) -> tuple[str, list[str]]:
    """What is printed, and what pip was called with."""
    log = machine.folder / "pip"
    python = program(machine.folder / "venv/bin/python", "", status)
    python.write_text(python.read_text().replace("echo ''", f'for word; do echo "$word"; done > "{log}"'))
    machine.monkeypatch.setattr(sys, "executable", str(python))
    machine.monkeypatch.setattr(sys, "argv", ["wheels"])
    wheels.main()
    return capsys.readouterr().out, log.read_text().splitlines() if log.exists() else []


def test_a_driver_of_cuda_13_gets_the_wheels_with_their_size_said(machine, capsys):
    machine.has_driver((13, 0))
    said, called = setup(machine, capsys)
    assert called == ["-m", "pip", "install", "--disable-pip-version-check", "-r", str(ROOT / "requirements-cuda.txt")]
    assert "installing CUDA 13.0 for NVIDIA GeForce RTX 3060: 884 MB to download" in said and "CUDA=0" in said


def test_what_pytorch_has_brought_is_not_counted(machine, capsys):
    machine.has_driver((13, 2))
    machine.has_wheels(without=["nvidia-cuda-nvcc", "nvidia-cuda-crt", "nvidia-nvvm", "nvidia-cuda-cccl"])
    said, called = setup(machine, capsys)
    assert "103 MB" in said and called


def no_driver(machine):
    return ""


def no_device(machine):
    machine.has_driver((13, 0), refusal="no CUDA-capable device is detected")
    return ""


def an_old_driver(machine):
    machine.has_driver((12, 9))
    return "NVIDIA GeForce RTX 3060 cannot be used yet: nvcc was not found: apt install cuda-toolkit-12-6"


def an_old_device(machine):
    machine.has_driver((13, 0), GTX_1060)
    return "NVIDIA GeForce GTX 1060 cannot be used yet: nvcc was not found: apt install cuda-toolkit-12-6"


def an_old_device_beside_a_newer_one(machine):
    """Jittor compiles for all that are visible."""
    machine.has_driver((13, 0), RTX_3060, GTX_1060)
    return "apt install cuda-toolkit-12-6"


def a_toolkit_that_can_be_used(machine):
    machine.has_driver((13, 0))
    machine.has_toolkit("12.6")
    return ""


def a_whole_cuda_13(machine):
    machine.has_driver((13, 0))
    machine.has_toolkit("13.0")
    return ""


def the_wheels_already(machine):
    machine.has_driver((13, 0))
    machine.has_wheels()
    return ""


def the_wheels_and_a_gxx_that_is_too_new(machine):
    the_wheels_already(machine)
    machine.has_gxx("16.1.0")
    return "apt install g++-15"


CASES = [
    *(no_driver, no_device, an_old_driver, an_old_device, an_old_device_beside_a_newer_one),
    *(a_toolkit_that_can_be_used, a_whole_cuda_13, the_wheels_already, the_wheels_and_a_gxx_that_is_too_new),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_nothing_is_installed_where_it_is_of_no_use(machine, capsys, case):
    words = case(machine)
    said, called = setup(machine, capsys)
    assert not called and (words in said if words else not said)


def half_a_toolkit(machine):
    machine.has_driver((13, 0))
    machine.has_toolkit("13.0", without=["libcurand.so", "curand.h"])


def a_toolkit_that_is_too_old_for_the_device(machine):
    machine.has_driver((13, 0), Device("NVIDIA GeForce RTX 5090", 32_000_000_000, (12, 0)))
    machine.has_toolkit("12.6")


def a_toolkit_whose_gxx_is_missing(machine):
    machine.has_driver((13, 0))
    machine.has_toolkit("11.8")


@pytest.mark.parametrize(
    "case",
    [half_a_toolkit, a_toolkit_that_is_too_old_for_the_device, a_toolkit_whose_gxx_is_missing],
    ids=lambda case: case.__name__,
)
def test_a_toolkit_that_cannot_be_used_does_not_keep_the_wheels_away(machine, capsys, case):
    case(machine)
    assert setup(machine, capsys)[1]


def test_where_pip_fails_one_line_says_how_to_go_on_without(machine, capsys):
    machine.has_driver((13, 0))
    with pytest.raises(UserError, match=r"requirements-cuda.txt: try again, or `make setup CUDA=0`"):
        setup(machine, capsys, status=1)


def test_every_line_of_the_requirements_is_a_wheel_with_its_size():
    lines = [line for line in wheels.PINS.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    assert len(wheels.pinned()) == len(lines) == 9


@pytest.mark.parametrize(("given", "calls"), [([], 2), (["CUDA=1"], 2), (["CUDA=0"], 0)])
def test_make_setup_asks_for_them_unless_it_is_told_not_to(given, calls):
    made = subprocess.run(["make", "-nB", "setup", *given], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert made.count("-m gpt2_jittor.runtime.cuda.wheels") == calls and "-r requirements.txt" in made
