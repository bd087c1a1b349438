"""Running the fused CPU kernels of `kernels/*.h` through `jt.code`, and deciding when they run."""

import contextlib
import ctypes
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

from gpt2_jittor.backend import jt
from gpt2_jittor.ops import precision

_KERNELS = Path(__file__).parent / "kernels"
_composed_only = False


def enabled() -> bool:
    """True where the fused kernels run: on the CPU, unless `composed_only` is in force."""
    return not (_composed_only or jt.flags.use_cuda)


@contextlib.contextmanager
def composed_only() -> Iterator[None]:
    """Runs the composed definitions, as CUDA does; graphs built inside keep them for their backward pass."""
    global _composed_only
    before, _composed_only = _composed_only, True
    try:
        yield
    finally:
        _composed_only = before


@functools.cache
def has_sgemm() -> bool:
    """True where oneDNN's `dnnl_sgemm` is loaded for kernels to call."""
    return hasattr(ctypes.CDLL(None), "dnnl_sgemm")


def products() -> bool:
    """True where the fused kernels that multiply matrices run: they do it in float32, and through oneDNN."""
    return enabled() and has_sgemm() and precision.current() == "fp32"


@functools.cache
def _source(name: str) -> str:
    # The text itself, not an #include of it: Jittor then recompiles when the text changes.
    return (_KERNELS / f"{name}.h").read_text(encoding="utf-8")


@functools.cache
def _header(kernels: tuple[str, ...]) -> str:
    return "\n".join(_source(name) for name in kernels)


def run(
    kernels: Sequence[str],
    call: str,
    shapes: Sequence[Sequence[int]],
    inputs: Sequence["jt.Var"],
    **numbers: float,
) -> list["jt.Var"]:
    """Outputs (float32, of the given shapes) of a C++ `call`.

    In `call`, `in0_p`, `out0_p` are the arrays' pointers, `in0_shape0` an input's length, and each of `numbers`
    is a double of its name; a change of numbers or shapes does not recompile.
    """
    names = sorted(numbers)
    declared = "".join(f'const double {name} = data["{name}"];\n' for name in names)
    outputs = jt.code(
        [list(shape) for shape in shapes],
        ["float32"] * len(shapes),
        list(inputs),
        cpu_header=_header(tuple(kernels)),
        cpu_src=declared + call,
        data={name: float(numbers[name]) for name in names},
    )
    return list(outputs)
