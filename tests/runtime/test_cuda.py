"""What is found of CUDA on made-up machines, what is decided, and the one line where something is missing.

The bounds are worked by hand from NVIDIA's release notes and crt/host_config.h, and from jittor/compiler.py.
"""

import os
from pathlib import Path

import pytest
from machines import a_card, found

from gpt2_jittor.runtime import cuda
from gpt2_jittor.runtime.cuda import parts
from gpt2_jittor.runtime.cuda.driver import Device


def test_where_another_toolkits_ptxas_comes_first_the_path_begins_with_the_chosen_nvccs_folder(machine):
    """Debian's nvcc 11.8 beside a CUDA 13 on the PATH takes that one's ptxas, which knows no sm_70."""
    machine.has_driver((12, 9))
    own = Path(machine.has_toolkit("12.6")).parent
    assert "PATH" not in found(machine).settings()
    machine.has("ptxas")
    assert "PATH" not in found(machine).settings()  # the nvcc finds its own by itself
    (own / "ptxas").touch(mode=0o755)
    assert found(machine).settings()["PATH"] == f"{own}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.parametrize("release", ["10.2", "11.8", "12.0", "12.9"])
def test_a_whole_cuda_is_used_without_cudnn_and_without_downloads(machine, release):
    machine.has_gxx("8.4.0")
    machine.has_driver((12, 4), a_card(7, 5))
    nvcc = machine.has_toolkit(release)
    assert found(machine).settings() == {"nvcc_path": nvcc, "conv_opt": "1", "use_cutt": "0", "use_cutlass": "0"}


def test_nvcc_path_is_preferred_to_the_path(machine):
    machine.has_driver((12, 4))
    machine.has_toolkit("12.4")
    chosen = machine.has_toolkit("12.3", "mine", on_path=False)
    os.environ["nvcc_path"] = chosen
    assert found(machine).toolkit.nvcc == chosen


def test_beside_a_toolkit_that_is_too_new_the_newest_that_fits_is_found(machine):
    machine.has_driver((13, 0))
    machine.has_toolkit("14.0")
    machine.has_toolkit("11.8", "cuda-11.8", on_path=False)
    chosen = machine.has_toolkit("12.6", "cuda-12.6", on_path=False)
    assert found(machine).usable and found(machine).toolkit.nvcc == chosen


def test_where_no_toolkit_fits_the_first_on_the_path_is_named(machine):
    machine.has_driver((13, 0))
    machine.has_toolkit("14.0")
    machine.has_toolkit("9.2", "cuda-9.2", on_path=False)
    assert "not 14.0" in str(found(machine).problem)


DEVICES = [  # toolkit, capability, words of the problem; empty where it fits
    ("10.2", (3, 0), ""),
    ("10.2", (8, 0), "8.0, which is too new: apt install cuda-toolkit-12-6 ("),
    ("11.0", (8, 6), ""),  # what was compiled for 8.0 runs on it
    ("11.7", (8, 9), ""),
    ("11.7", (9, 0), "9.0, which is too new: apt install cuda-toolkit-12-6 ("),
    ("11.8", (3, 0), "3.0, which is too old: install CUDA 10.2"),
    ("11.8", (3, 7), ""),
    ("11.8", (9, 0), ""),
    ("12.4", (3, 7), "3.7, which is too old: apt install cuda-toolkit-11-8 ("),
    ("12.4", (5, 0), ""),
    ("12.4", (9, 0), ""),
    ("12.6", (12, 0), "12.0, which is too new: apt install cuda-toolkit-12-9 ("),
    ("12.8", (10, 0), ""),
    ("12.8", (12, 1), "12.1, which is too new: apt install cuda-toolkit-12-9 ("),
    ("12.9", (12, 1), ""),
    ("12.9", (13, 0), "13.0, which is too new: Jittor 1.3.11 takes no other that does"),
]


@pytest.mark.parametrize(("release", "capability", "words"), DEVICES)
def test_a_device_must_be_one_that_jittor_and_the_toolkit_compile_for(machine, release, capability, words):
    machine.has_gxx("8.4.0")
    machine.has_driver((12, 9), a_card(*capability))
    machine.has_toolkit(release)
    problem = found(machine).problem
    assert (problem is None) == (not words) and words in str(problem)


def test_of_two_devices_the_one_that_does_not_fit_is_named(machine):
    machine.has_driver((12, 9), a_card(3, 5), Device("NVIDIA GeForce RTX 5090", 32_000_000_000, (12, 0)))
    machine.has_toolkit("11.8")
    line = str(found(machine).problem)
    assert "RTX 5090" in line and "hide a device by CUDA_VISIBLE_DEVICES" in line


DRIVERS = [  # toolkit, driver, words of the problem
    (
        "10.2",
        (10, 1),
        "supports CUDA 10.1, older than the toolkit's 10.2: update the driver: sudo ubuntu-drivers install",
    ),
    ("11.8", (11, 0), ""),  # a driver runs the machine code of every toolkit of its major release
    ("12.4", (11, 8), "update the driver: sudo ubuntu-drivers install, then restart; or apt install cuda-toolkit-11-8"),
    ("12.4", (12, 0), ""),
    ("11.8", (13, 0), ""),
]


@pytest.mark.parametrize(("release", "driver", "words"), DRIVERS)
def test_a_driver_must_be_as_new_as_the_toolkits_major_release(machine, release, driver, words):
    machine.has_gxx("8.4.0")
    machine.has_driver(driver, a_card(7, 5))
    machine.has_toolkit(release)
    problem = found(machine).problem
    assert (problem is None) == (not words) and words in str(problem)


def a_machine_without_anything(machine):
    pass


def a_toolkit_without_a_driver(machine):
    machine.has_toolkit("12.4")


def a_container_without_the_gpus(machine):
    machine.monkeypatch.setattr(cuda.drivers, "CONTAINER", (machine.folder,))


def wsl_without_a_driver(machine):
    (machine.folder / "version").write_text("Linux version 5.15.167.4-microsoft-standard-WSL2")


def an_old_driver_on_windows(machine):
    wsl_without_a_driver(machine)
    machine.has_driver((11, 8))
    machine.has_toolkit("12.4")


def a_driver_without_a_device(machine):
    machine.has_driver((12, 4), refusal="no CUDA-capable device is detected")
    machine.has_toolkit("12.4")


def devices_that_are_hidden(machine):
    os.environ["CUDA_VISIBLE_DEVICES"] = "7"
    a_driver_without_a_device(machine)


def a_driver_without_a_toolkit(machine):
    machine.has_driver((12, 4))


def an_old_driver_without_a_toolkit(machine):
    machine.has_driver((11, 4))


def a_new_driver_without_a_toolkit(machine):
    machine.has_driver((13, 0))


def a_new_driver_of_an_old_device_without_a_toolkit(machine):
    machine.has_driver((13, 0), a_card(6, 1))


def a_new_driver_with_half_a_toolkit(machine):
    machine.has_driver((13, 0))
    machine.has_toolkit("13.0", without=["libcublas.so", "cublas_v2.h"])


def a_new_driver_with_a_toolkit_that_is_too_old_for_the_device(machine):
    machine.has_driver((13, 0), a_card(12, 0))
    machine.has_toolkit("12.4")


def a_new_toolkit_with_an_old_driver(machine):
    machine.has_driver((12, 4))
    machine.has_toolkit("13.0")


def a_new_toolkit_with_an_old_device(machine):
    machine.has_driver((13, 0), a_card(7, 0))
    machine.has_toolkit("13.0")


def a_new_toolkit_without_its_compilers_headers(machine):
    """A program on the PATH that calls the nvcc of a toolkit elsewhere."""
    machine.has_driver((13, 0))
    machine.has_toolkit("13.0", without="host_config.h")


def a_toolkit_that_is_too_new(machine):
    machine.has_driver((13, 0))
    machine.has_toolkit("14.0")


def a_toolkit_that_is_too_old(machine):
    machine.has_driver((12, 4))
    machine.has_toolkit("9.2")


def a_toolkit_without_libraries(machine):
    machine.has_driver((12, 4))
    machine.has_toolkit("12.4", without="libcublas.so")


def an_nvcc_that_says_nothing(machine):
    machine.has_driver((12, 4))
    os.environ["nvcc_path"] = machine.has("nvcc", "what?")


def an_nvcc_path_to_nothing(machine):
    machine.has_driver((12, 4))
    os.environ["nvcc_path"] = str(machine.folder / "no" / "nvcc")


def a_gxx_that_is_too_new(machine):
    machine.has_driver((12, 4))
    machine.has_toolkit("11.8")


HALF_THERE = {
    a_machine_without_anything: "no NVIDIA driver was found: for a GPU: sudo ubuntu-drivers install",
    a_toolkit_without_a_driver: "no NVIDIA driver was found",
    a_container_without_the_gpus: "docker run --gpus all",
    wsl_without_a_driver: "install NVIDIA's driver on Windows",
    an_old_driver_on_windows: "toolkit's 12.4: update NVIDIA's driver on Windows, then `wsl --shutdown`; or apt",
    a_driver_without_a_device: "(no CUDA-capable device is detected): see what nvidia-smi says",
    devices_that_are_hidden: "CUDA_VISIBLE_DEVICES=7: unset CUDA_VISIBLE_DEVICES",
    a_driver_without_a_toolkit: "nvcc was not found: apt install cuda-toolkit-12-6",
    an_old_driver_without_a_toolkit: "nvcc was not found: apt install cuda-toolkit-11-8",
    a_new_driver_without_a_toolkit: "nvcc was not found: make setup (or pip install -r requirements-cuda.txt)",
    a_new_driver_of_an_old_device_without_a_toolkit: "nvcc was not found: apt install cuda-toolkit-12-6",
    a_new_driver_with_half_a_toolkit: "include/cublas_v2.h is missing: make setup",
    a_new_driver_with_a_toolkit_that_is_too_old_for_the_device: "which is too new: make setup",
    a_new_toolkit_with_an_old_driver: "older than the toolkit's 13.0: update the driver: sudo ubuntu-drivers install, "
    "then restart; or apt install cuda-toolkit-12-6",
    a_new_toolkit_with_an_old_device: "7.0, which is too old: apt install cuda-toolkit-12-6",
    a_new_toolkit_without_its_compilers_headers: "include/crt/host_config.h is missing: make setup",
    a_toolkit_that_is_too_new: "CUDA 10.2 to 13, not 14.0: make setup",
    a_toolkit_that_is_too_old: "CUDA 10.2 to 13, not 9.2: apt install cuda-toolkit-12-6",
    a_toolkit_without_libraries: "lib64/libcublas.so is missing: apt install cuda-toolkit-12-6",
    an_nvcc_that_says_nothing: "does not tell its version: point nvcc_path at",
    an_nvcc_path_to_nothing: "does not tell its version: point nvcc_path at",
    a_gxx_that_is_too_new: "apt install g++-11",
}


@pytest.mark.parametrize("half_there", HALF_THERE, ids=lambda case: case.__name__)
def test_cuda_that_is_half_there_is_left_alone_and_one_line_says_what_to_do(machine, half_there):
    half_there(machine)
    here = found(machine)
    assert here.settings() == {"nvcc_path": ""} and not here.usable
    assert HALF_THERE[half_there] in str(here.problem) and "\n" not in str(here.problem)


def test_debians_own_nvcc_has_its_libraries_elsewhere(machine, tmp_path):
    machine.has_driver((12, 4))
    nvcc = machine.has("nvcc", "release 11.8, V11.8.89")
    machine.has_gxx("11.3.0")
    machine.monkeypatch.setattr(parts, "DISTRIBUTION", nvcc)
    machine.monkeypatch.setattr(parts, "DISTRIBUTION_LIBRARIES", tmp_path / "lib")
    assert "libcudart.so is missing" in str(found(machine).problem)
    (tmp_path / "lib").mkdir()
    for name in parts.LIBRARIES:
        (tmp_path / "lib" / name).touch()
    assert found(machine).usable
