"""What an operator declares of its CUDA kernel, so that the kernel can prove itself: how it must agree with what.

`proofs(rng)` in an operator's module yields comparisons of the kernel with the composed definition, on small random
inputs of odd sizes. `prove.py` makes them on the device, once; tests make them on the emulated one.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from gpt2_jittor.runtime.backend import jt

# Of the largest number of an array. Fast math and another order of sums differ by a few millionths; an element that is
# left out, taken twice or put elsewhere, by a thousandth of it and more.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Comparison:
    """`fused` and `composed` take a Var for each of `inputs` and give a Var, or a sequence of them.

    Where there is a `gradient`, the gradients by all inputs are compared as well as the values.
    """

    what: str
    fused: Callable
    composed: Callable
    inputs: Sequence[np.ndarray]
    gradient: bool = True

    def results(self, function: Callable) -> list:
        """Vars, not computed yet: the values of `function`, then the gradients of their sum, weighed at random."""
        given = [jt.array(array.astype(np.float32)) for array in self.inputs]
        values = function(*given)
        values = [values] if isinstance(values, jt.Var) else list(values)
        if not self.gradient:
            return values
        rng = np.random.default_rng(0)  # the same weights for both
        loss = sum((value * jt.array(rng.standard_normal(value.shape).astype(np.float32))).sum() for value in values)
        return values + jt.grad(loss, given)


def problem(comparisons: Iterable[Comparison]) -> str:
    """Where the kernel and the definition disagree, in a few words; empty where they nowhere do.

    All that is to be computed is handed to Jittor at once, which then compiles it side by side; the kernels before the
    definitions, whose numbers else might lie where a broken kernel has written nothing.
    """
    made = [(one, one.results(one.fused), one.results(one.composed)) for one in comparisons]
    jt.sync_all(True)
    for one, found, expected in made:
        for number, (a, b) in enumerate(zip(found, expected, strict=True)):
            if difference := _difference(a.numpy(), b.numpy()):
                values = len(found) - len(one.inputs) * one.gradient
                of = f"value {number}" if number < values else f"the gradient by input {number - values}"
                return f"{difference} in {of} of {one.what}"
    return ""


def _difference(found: np.ndarray, expected: np.ndarray) -> str:
    if found.shape != expected.shape:
        return f"the shape {found.shape} and not {expected.shape}"
    if not np.isfinite(found).all():
        return "NaN or infinite numbers"
    error = np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-6)
    return f"a difference of {error:.1e}" if not error <= TOLERANCE else ""
