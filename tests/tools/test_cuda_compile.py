"""`make cuda-compile`: what is made of nvcc's words, and what is said where there is no nvcc."""

import os
import stat
import subprocess
import sys
from pathlib import Path
from unittest import mock

import cuda_kernels
import numpy as np
import pytest
from places import ROOT

from gpt2_jittor.ops import fused
from gpt2_jittor.runtime.backend import jt
from gpt2_jittor.runtime.cuda.toolkit import Toolkit
from tests.cuda_emulation import home
from tools.cuda import bytes as cuda_bytes
from tools.cuda import compile as cuda_compile
from tools.cuda.compile import compile_one, description, options

SOURCES = ("good", "bad", "too")
SAID = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z12sum_of_partsPKflPf' for 'sm_70'
ptxas info    : Function properties for _Z12sum_of_partsPKflPf
    8 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 12 registers, 128 bytes smem, 376 bytes cmem[0]
ptxas info    : Compiling entry function '_Z12sum_of_partsPKflPf' for 'sm_90'
ptxas info    : Function properties for _Z12sum_of_partsPKflPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 14 registers, used 1 barriers, 128 bytes smem
"""


def fake_nvcc(folder: Path, said: str, status: int = 0) -> str:
    nvcc = folder / "nvcc"
    nvcc.write_text(f"#!/bin/sh\ncat >&2 <<'E'\n{said}E\nexit {status}\n")
    nvcc.chmod(nvcc.stat().st_mode | stat.S_IEXEC)
    return str(nvcc)


def test_registers_spills_and_shared_memory_are_those_that_ptxas_names(tmp_path):
    kernels = compile_one(fake_nvcc(tmp_path, SAID), [], [70, 90], tmp_path / "x.cu")
    assert list(kernels) == ["sum_of_parts"]
    kernel = kernels["sum_of_parts"]
    assert (kernel.registers, kernel.spills, kernel.shared) == ({70: 12, 90: 14}, {70: 12, 90: 0}, 128)


def test_a_kernel_that_spills_is_named_with_its_bytes_on_each_architecture(tmp_path):
    kernels = compile_one(fake_nvcc(tmp_path, SAID), [], [70, 90], tmp_path / "x.cu")
    assert list(cuda_compile.spilling(kernels)) == ["sum_of_parts: sm_70 12 bytes spilled"]


def test_what_nvcc_refuses_is_shown(tmp_path):
    with pytest.raises(cuda_compile.UserError, match="x.cu: error: expected a ;"):
        compile_one(fake_nvcc(tmp_path, "x.cu: error: expected a ;\n", 2), [], [70], tmp_path / "x.cu")


def test_all_sources_are_tried_and_those_that_are_refused_are_counted(tmp_path, monkeypatch, capsys):
    refusing = tmp_path / "nvcc"
    refusing.write_text(f"#!/bin/sh\ncase \"$*\" in *bad.cu*) exit 2 ;; esac\ncat >&2 <<'E'\n{SAID}E\n")
    refusing.chmod(0o755)
    toolkit = Toolkit(str(refusing), (12, 4))
    work = {"works": {}, "nvcc_flags": ""}
    monkeypatch.setattr(cuda_compile, "find_nvcc", lambda: toolkit)
    monkeypatch.setattr(cuda_compile, "run_on_emulator", lambda kernels: work)
    monkeypatch.setattr(cuda_compile, "sources", lambda report: {tmp_path / f"{name}.cu": name for name in SOURCES})
    monkeypatch.setattr(cuda_compile, "options", lambda flags: [])
    monkeypatch.setattr(sys, "argv", ["compile"])
    with pytest.raises(cuda_compile.UserError, match="nvcc refuses .*bad.cu.*; 1 of 3 sources are refused"):
        cuda_compile.main()
    said = capsys.readouterr().out
    assert "3 sources for sm_70, sm_75, sm_80: 1 refused\nsum_of_parts: sm_70 12 bytes spilled\n" in said


@pytest.mark.parametrize("release", [None, "14.0"])
def test_without_an_nvcc_that_jittor_can_use_one_line_says_how_to_get_it(tmp_path, release):
    variables = {"PATH": str(tmp_path), "HOME": os.environ["HOME"], "nvcc_path": str(tmp_path / "absent")}
    if release:
        nvcc = tmp_path / "nvcc"
        nvcc.write_text(f"#!/bin/sh\necho release {release}\n")
        nvcc.chmod(0o755)
        variables["nvcc_path"] = str(nvcc)
    command = [sys.executable, "-m", "tools.cuda.compile"]
    done = subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and not done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and "requirements-cuda.txt" in line and (release or "absent") in line


def test_of_jittors_options_those_of_the_emulator_and_of_linking_are_left_out(monkeypatch):
    monkeypatch.setattr(home, "build", lambda: Path("/emulated"))
    flags = ' -DEMULATION=1 -std=c++14 -Xcompiler -fPIC -ldl -shared -I"/jittor/src" -DHAS_CUDA -I"/emulated/include" '
    flags += '-L"/emulated/lib64" -x cu --cudart=shared -ccbin="/usr/bin/g++" --use_fast_math -arch=compute_80'
    assert options(flags) == ["-std=c++14", "-I/jittor/src", "-DHAS_CUDA", "--use_fast_math"]


def test_a_generated_operator_is_described_by_what_was_fused_into_it():
    key = "«opkey0:broadcast_to«Tx:float32«opkey1:binary«OP:multiply«opkey2:reduce«OP:add«JIT:1"
    assert description(key) == "broadcast_to multiply add"
    assert description("cublas_matmul«T:float32") == "cublas_matmul"


@cuda_kernels.NEEDS_EMULATOR
def test_the_bytes_of_a_kernel_are_those_of_its_arrays(monkeypatch):
    for name, value in (("BATCH", 2), ("TIME", 8), ("TOKENS", 16), ("WIDTH", 24), ("MLP", 40), ("TRAINED", 100)):
        monkeypatch.setattr(cuda_bytes, name, value)
    moved = []

    def noted(kernels, call, shapes, inputs, **numbers):
        if "affine" not in call:  # the gradients of frozen weights, which Jittor never executes
            moved.append(sum(int(np.prod(shape)) for shape in [*shapes, *(x.shape for x in inputs)]))
        return cuda_kernels.emulated_run(kernels, call, shapes, inputs, **numbers)

    with cuda_kernels.turned_on(), mock.patch.object(fused, "run", noted):
        for name in ("layer_norm", "gelu_new", "add_dropped", "adamw", "sum_of_squares"):
            moved.clear()
            function, shapes = cuda_bytes.works()[name]
            inputs = [jt.random(shape) for shape in shapes]
            value = function(*inputs)
            if shapes:
                gradients = jt.grad(value.sum(), inputs)
                jt.sync(gradients)
            assert sum(moved) == cuda_bytes.kernel_floats()[name], name
