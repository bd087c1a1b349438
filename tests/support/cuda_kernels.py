"""Runs the CUDA kernels of the operators on the emulated device, within a process whose Jittor runs on the CPU.

`emulated_run` stands in for `fused.run`: it compiles the very text that Jittor would give to nvcc with the emulator's,
and calls it on copies of the inputs in the emulated device's memory. So a kernel is tested in seconds; Jittor's own
build for CUDA takes minutes.
"""

import contextlib
import ctypes
import functools
import hashlib
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from gpt2_jittor.ops import fused
from gpt2_jittor.runtime.backend import jt
from tests.cuda_emulation import home

NEEDS_EMULATOR = pytest.mark.skipif(not home.installed(), reason=f"{home.WHEEL} is not installed: {home.INSTALL}")
_TYPES = {"float32": "float", "int32": "int"}
_EXECUTOR = """
#pragma once
#include <cublas_v2.h>
#include <cuda_runtime.h>
namespace jittor {  // what the kernels use of Jittor's
static cublasHandle_t cublas_handle = [] {
    cublasHandle_t made;
    cublasCreate(&made);
    return made;
}();
struct Allocator {
    void* alloc(size_t size, size_t&) { void* p; cudaMalloc(&p, size); cudaMemset(p, 0xFF, size); return p; }
    void free(void* p, size_t, size_t) { cudaFree(p); }
};
struct Executor { Allocator allocator, *temp_allocator = &allocator; };
static Executor exe;
}
"""
_PROGRAM = """
{header}
namespace {{
struct Var {{ long num; }};
template <class T> struct OnDevice {{  // an array of the host's, for as long as this lives
    T *host, *device;
    size_t bytes;
    OnDevice(void* p, long n) : host((T*)p), bytes(n * sizeof(T)) {{
        cudaMalloc((void**)&device, bytes);
        cudaMemcpy(device, host, bytes, cudaMemcpyHostToDevice);
    }}
    ~OnDevice() {{
        cudaMemcpy(host, device, bytes, cudaMemcpyDeviceToHost);
        cudaFree(device);
    }}
}};
}}
extern "C" int run(void** arrays, const long* lengths, const double* numbers) {{
    {declared}
    {call}
    return (int)cudaDeviceSynchronize();
}}
"""


@contextlib.contextmanager
def turned_on() -> Iterator[None]:
    """Operators with a CUDA kernel run it, by Jittor where it uses CUDA, else emulated; the others run composed."""
    if jt.flags.use_cuda:
        with fused.cuda_kernels():
            yield
        return
    if not home.installed():
        pytest.skip(f"{home.WHEEL} is not installed: {home.INSTALL}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "enabled_on_cpu", lambda: False)
        patch.setattr(fused, "enabled_on_cuda", lambda kernel: True)
        patch.setattr(fused, "run", emulated_run)
        yield


def emulated_run(kernels: Sequence[str], call: str, shapes: Sequence, inputs: Sequence, **numbers: float) -> list:
    """As `fused.run`; the outputs are NaN where the kernel has written nothing. Inputs are as they were, but for a
    token's new keys and values.
    """
    given = [np.ascontiguousarray(variable.numpy()) for variable in inputs]
    outputs = [np.full(shape, np.nan, np.float32) for shape in shapes]
    arrays = [array.copy() for array in given] + outputs
    places = [f"in{i}" for i in range(len(given))] + [f"out{i}" for i in range(len(outputs))]
    declared, lengths = "", []
    for number, (place, array) in enumerate(zip(places, arrays, strict=True)):
        lengths.append(array.size)
        kind = _TYPES[str(array.dtype)]
        declared += f"OnDevice<{kind}> {place}_held(arrays[{number}], lengths[{len(lengths) - 1}]);\n"
        declared += f"auto* {place}_p = {place}_held.device; const Var {place}_var = {{lengths[{len(lengths) - 1}]}};\n"
        declared += f"const Var* {place} = &{place}_var;\n"
        for axis, length in enumerate(array.shape):
            declared += f"const int {place}_shape{axis} = (int)lengths[{len(lengths)}];\n"
            lengths.append(length)
    declared += "".join(f"const double {name} = numbers[{i}];\n" for i, name in enumerate(sorted(numbers)))
    program = _compiled(_PROGRAM.format(header=fused.cuda_header(kernels[-1]), declared=declared, call=call))
    status = program(
        (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays)),
        (ctypes.c_long * len(lengths))(*lengths),
        (ctypes.c_double * max(1, len(numbers)))(*(float(numbers[name]) for name in sorted(numbers))),
    )
    assert status == 0, f"CUDA's error {status} from {call}"
    for variable, array, before in zip(inputs, arrays, given, strict=False):  # the inputs come first
        if kernels[-1] == "decode_step":
            variable.assign(array)
        else:
            np.testing.assert_array_equal(array, before, "a kernel has written into an input")
    return [jt.array(output) for output in outputs]


@functools.cache
def _compiled(program: str):
    nvcc = home.build() / "bin" / "nvcc"
    kept = home.cache() / "kernels"
    library = kept / f"{hashlib.sha256((home.version() + program).encode()).hexdigest()[:16]}.so"
    if not library.is_file():
        kept.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept) as name:  # of this process alone: others may make the same kernel
            folder = Path(name)
            (folder / "executor.h").write_text(_EXECUTOR)
            (folder / "kernel.cu").write_text(program)
            options = ["-shared", "-Xcompiler", "-fPIC", "--use_fast_math", "-std=c++14", f"-I{folder}", "-lcublas"]
            subprocess.run([nvcc, *options, folder / "kernel.cu", "-o", folder / "kernel.so"], check=True)
            (folder / "kernel.so").replace(library)
    run = ctypes.CDLL(str(library)).run
    run.restype = ctypes.c_int
    return run
