"""The doctor's rows about CUDA on made-up machines: all that was found, and what is missing beside it."""

import os
from pathlib import Path

import pytest
from machines import RTX_3060

from gpt2_jittor.doctor import __main__ as doctor
from gpt2_jittor.doctor import cuda
from gpt2_jittor.doctor.row import Row
from gpt2_jittor.runtime.cuda.driver import Device

CHECKS = (cuda.driver, cuda.device, cuda.toolkit, cuda.compiler, cuda.cudnn, cuda.nccl)
A100 = Device("NVIDIA A100", 42_300_000_000, (8, 0))


def nothing(machine):
    return ["ok"] * 6, ["none: training runs on the CPU", "none: not needed on the CPU"], "on the CPU."


def a_toolkit_alone(machine):
    machine.has_toolkit("12.4")
    return ["warning", "ok", "ok", "ok", "ok", "ok"], ["12.4 by ", "sudo ubuntu-drivers install"], "on the CPU."


def a_toolkit_alone_that_is_too_new(machine):
    machine.has_toolkit("14.0")
    return ["warning", "ok", "warning", "ok", "ok", "ok"], ["not 14.0", "cuda-toolkit-12-6"], "on the CPU."


def a_driver_alone(machine):
    machine.has_driver((12, 4))
    words = ["supports CUDA 12.4", "RTX 3060, 12.6 GB", "nvcc was not found", "apt install cuda-toolkit-12-6"]
    return ["ok", "ok", "warning", "ok", "ok", "ok"], words, "on the CPU."


def a_driver_without_a_device(machine):
    machine.has_driver((12, 4), refusal="no CUDA-capable device is detected")
    return ["warning", "ok", "ok", "ok", "ok", "ok"], ["no CUDA-capable device", "nvidia-smi"], "on the CPU."


def a_whole_cuda(machine):
    machine.has_driver((12, 4))
    machine.has_toolkit("12.4")
    return ["ok"] * 6, ["12.4 by ", "g++; nvcc 12.4 accepts g++ up to 13"], "on NVIDIA GeForce RTX 3060."


def a_new_driver_alone(machine):
    machine.has_driver((13, 0))
    words = ["supports CUDA 13.0", "nvcc was not found", "-> make setup (or pip", "sum over the host; for sums between"]
    return ["ok", "ok", "warning", "ok", "ok", "ok"], words, "on the CPU."


def half_a_toolkit_beside_the_wheels(machine):
    machine.has_driver((13, 0))
    machine.has_toolkit("13.0", without=["libcublas.so", "cublas_v2.h", "curand.h"])
    wheels = Path(machine.has_wheels()).parents[1]
    words = [
        f"13.0 by {machine.folder}/local/cuda/bin/nvcc; cuBLAS, cuRAND of {wheels}",
        "nvcc 13.0 accepts g++ up to 15",
    ]
    return ["ok"] * 6, [*words, f"pip's 2.29.7 at {wheels.parent}/nccl/lib"], "on NVIDIA GeForce RTX 3060."


def the_wheels_alone_for_blackwell(machine):
    machine.has_driver((13, 0), Device("NVIDIA GeForce RTX 5090", 32_000_000_000, (12, 0)))
    return ["ok"] * 6, [f"13.0 by {machine.has_wheels()} -> "], "on NVIDIA GeForce RTX 5090."


def the_wheels_with_an_old_driver(machine):
    machine.has_driver((12, 8))
    machine.has_wheels()
    words = ["older than the toolkit's 13.0", "or apt install cuda-toolkit-12-6", "devices apt install libnccl-dev"]
    return ["ok", "ok", "warning", "ok", "ok", "ok"], words, "on the CPU."


def two_devices(machine):
    a_whole_cuda(machine)
    machine.has_driver((12, 4), A100, RTX_3060)
    words = ["0: NVIDIA A100, 42.3 GB, compute capability 8.0; 1: NVIDIA GeForce", "number 0 is used, CUDA_VISIBLE_DEV"]
    return ["ok"] * 6, words, "on NVIDIA A100."


def a_device_with_little_memory(machine):
    a_whole_cuda(machine)
    machine.has_driver((12, 4), Device("NVIDIA GeForce MX450", 2_100_000_000, (7, 5)))
    return ["ok", "warning", "ok", "ok", "ok", "ok"], ["2.1 GB", "--model nano"], "on NVIDIA GeForce MX450."


def a_gxx_that_another_replaces(machine):
    machine.has_driver((12, 4))
    machine.has_toolkit("11.8")
    machine.has_gxx("11.4.0", "g++-11")
    return ["ok"] * 6, ["g++-11; nvcc 11.8 accepts g++ up to 11"], "on NVIDIA GeForce RTX 3060."


def a_gxx_that_is_too_new(machine):
    machine.has_driver((12, 4))
    machine.has_toolkit("11.8")
    return ["ok", "ok", "ok", "warning", "ok", "ok"], ["11.8 by ", "apt install g++-11"], "on the CPU."


def a_device_that_is_too_new(machine):
    machine.has_driver((12, 9), Device("NVIDIA Something", 32_000_000_000, (13, 0)))
    machine.has_toolkit("12.9")
    return ["ok", "ok", "warning", "ok", "ok", "ok"], ["NVIDIA Something", "too new"], "on the CPU."


def a_cudnn_that_would_abort_the_import(machine):
    a_whole_cuda(machine)
    include = machine.folder / "local" / "cuda" / "include"
    (include / "cudnn_version.h").write_text("#define CUDNN_MAJOR 9\n#define CUDNN_MINOR 1\n")
    return ["ok"] * 6, ["cuDNN 9 is installed and left alone"], "on NVIDIA GeForce RTX 3060."


MACHINES = [
    nothing,
    a_toolkit_alone,
    a_toolkit_alone_that_is_too_new,
    a_driver_alone,
    a_driver_without_a_device,
    a_whole_cuda,
    a_new_driver_alone,
    half_a_toolkit_beside_the_wheels,
    the_wheels_alone_for_blackwell,
    the_wheels_with_an_old_driver,
    two_devices,
    a_device_with_little_memory,
    a_gxx_that_another_replaces,
    a_gxx_that_is_too_new,
    a_device_that_is_too_new,
    a_cudnn_that_would_abort_the_import,
]


@pytest.mark.parametrize("made_up", MACHINES, ids=lambda case: case.__name__)
def test_each_machine_gets_its_rows_and_its_verdict(machine, tmp_path, made_up):
    machine.monkeypatch.setattr(cuda, "CUDNN", (tmp_path / "usr" / "include",))
    expected, words, verdict = made_up(machine)
    rows = [check() for check in CHECKS]
    assert [row.status for row in rows] == expected
    told = "\n".join(f"{row.found} -> {row.mend}" for row in rows)
    assert [part for part in words if part not in told] == []
    assert doctor.verdict(rows).endswith(verdict)


def test_the_verdict_is_what_a_run_decides(machine):
    from gpt2_jittor.runtime import runtime

    a_gxx_that_another_replaces(machine)
    assert doctor.verdict([Row("all", "ok", "well")]) == "Training can run here, on NVIDIA GeForce RTX 3060."
    assert runtime.prepare() == "cuda" and os.environ["cc_path"].endswith("g++-11")
