"""Running the fused kernels of `kernels/` through `jt.code`, and deciding when they run.

A kernel is `kernels/<name>.h` on the CPU and, where it has one, `kernels/cuda/<name>.cuh` on CUDA, whose functions have
the same names and arguments: one call is right for both. On CUDA a kernel runs where it has proved itself, unless
GPT2_JITTOR_CUDA_KERNELS=0 in the environment forbids all of them.
"""

import contextlib
import ctypes
import functools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from gpt2_jittor.ops import verdicts
from gpt2_jittor.ops.matmul import current_precision
from gpt2_jittor.ops.sources import KERNELS, header
from gpt2_jittor.runtime.backend import jt

_OWN_INCLUDE = re.compile(r'^#include "(.+\.cuh|\.\./.+\.h)"$', re.MULTILINE)
_composed_only = False
_cuda_kernels = os.environ.get("GPT2_JITTOR_CUDA_KERNELS") != "0"
_unproved = False


def enabled(kernel: str) -> bool:
    """True where fused kernels run: on the CPU all, on CUDA `kernels/cuda/<kernel>.cuh` where it has proved itself."""
    return enabled_on_cpu() or enabled_on_cuda(kernel)


def enabled_on_cpu() -> bool:
    """True where the CPU's kernels run."""
    return not (_composed_only or jt.flags.use_cuda)


def enabled_on_cuda(kernel: str) -> bool:
    """True where CUDA's kernel of this name runs: it agrees here with its composed definition (`verdicts.py`)."""
    if _composed_only or not jt.flags.use_cuda:
        return False
    return _unproved or (_cuda_kernels and verdicts.proved(kernel))


@contextlib.contextmanager
def composed_only() -> Iterator[None]:
    """Runs the composed definitions alone; graphs built inside keep them for their backward pass."""
    global _composed_only
    before, _composed_only = _composed_only, True
    try:
        yield
    finally:
        _composed_only = before


@contextlib.contextmanager
def cuda_kernels() -> Iterator[None]:
    """Runs all of CUDA's kernels, whatever is known of them: for tests of theirs."""
    global _unproved
    before, _unproved = _unproved, True
    try:
        yield
    finally:
        _unproved = before


def products() -> bool:
    """True where the CPU's kernels run that multiply matrices in float32, by oneDNN's `dnnl_sgemm`."""
    return products_on_cpu() and current_precision() == "fp32"


def products_on_cpu() -> bool:
    """True where those run that can multiply in bfloat16, too (`half_products.h`), or that stand beside products."""
    return enabled_on_cpu() and _dnnl_is_loaded() and current_precision() != "fp16"


@functools.cache
def _dnnl_is_loaded() -> bool:
    return hasattr(ctypes.CDLL(None), "dnnl_sgemm")


def products_on_cuda(kernel: str) -> bool:
    """True where a CUDA kernel runs that multiplies matrices, or stands beside products: float32 is all they know."""
    return current_precision() == "fp32" and enabled_on_cuda(kernel)


@functools.cache
def cuda_header(kernel: str) -> str:
    """The text of `kernels/cuda/<kernel>.cuh`, with that of what it includes in its place."""
    included = set()

    def text_of(path: Path) -> str:
        """The file's text with its includes' in their place; empty for a file that stands in the text already."""
        if path in included:
            return ""
        included.add(path)
        return _OWN_INCLUDE.sub(lambda found: text_of((path.parent / found[1]).resolve()), path.read_text("utf-8"))

    return text_of(KERNELS.resolve() / "cuda" / f"{kernel}.cuh")


def run(
    kernels: Sequence[str],
    call: str,
    shapes: Sequence[Sequence[int]],
    inputs: Sequence["jt.Var"],
    **numbers: float,
) -> list["jt.Var"]:
    """Outputs (float32, of the given shapes) of a C++ `call`, on the device in use.

    `kernels` are what it needs on the CPU; the last, whose function it calls, CUDA has in a form of its own.
    In `call`, `in0_p`, `out0_p` are the arrays' pointers, `in0_shape0` an input's length, and each of `numbers`
    is a double of its name; a change of numbers or shapes does not recompile.
    """
    names = sorted(numbers)
    declared = "".join(f'const double {name} = data["{name}"];\n' for name in names)
    if jt.flags.use_cuda:
        sources = {"cuda_header": cuda_header(kernels[-1]), "cuda_src": declared + call}
    else:
        sources = {"cpu_header": header(tuple(kernels)), "cpu_src": declared + call}
    outputs = jt.code(
        [list(shape) for shape in shapes],
        ["float32"] * len(shapes),
        list(inputs),
        data={name: float(numbers[name]) for name in names},
        **sources,
    )
    return list(outputs)
