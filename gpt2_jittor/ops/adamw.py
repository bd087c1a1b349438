"""One update of Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2), as torch computes it, and
the sum of squares that its clipping needs: each in one pass over all tensors.
"""

import math
from collections.abc import Sequence

import numpy as np

from gpt2_jittor.ops import fused
from gpt2_jittor.ops.proof import Comparison
from gpt2_jittor.runtime.backend import jt

AT_ONCE = 32  # tensors in one operator; a number of its own compiles a kernel of its own


def adamw(parameters, gradients, firsts, seconds, scale, step: int, rate: float, decays, betas, eps: float):
    """The new parameters, first and second moments: three lists, shaped like `parameters`, float32.

    g = gradient · scale;  m = β₁ m + (1 − β₁) g;  v = β₂ v + (1 − β₂) g²
    p = p (1 − rate · decay) − rate / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + eps)

    The first four are sequences of Vars, `decays` of numbers, one for each; `scale` is a Var of one element, `step`
    is t, the number of this update, from 1.
    """
    numbers = {"step_size": rate / (1 - betas[0] ** step), "correction": 1 / math.sqrt(1 - betas[1] ** step)}
    keeps = [1 - rate * decay for decay in decays]
    tensors = list(zip(parameters, gradients, firsts, seconds, keeps, strict=True))
    if fused.enabled("adamw"):
        several = [tensors[start : start + AT_ONCE] for start in range(0, len(tensors), AT_ONCE)]
        updated = [new for some in several for new in _fused(some, scale, betas, eps, numbers)]
    else:
        updated = [composed(*tensor, scale, betas, eps, **numbers) for tensor in tensors]
    return tuple(map(list, zip(*updated, strict=True)))


def _fused(tensors, scale, betas, eps: float, numbers: dict) -> list[tuple]:
    vectors, rows = [], []
    for i, tensor in enumerate(tensors):
        vectors += tensor[:4]
        arrays = [f"in{4 * i + k}_p" for k in range(4)] + [f"out{3 * i + k}_p" for k in range(3)]
        rows.append(f"{{{', '.join(arrays)}, in{4 * i}->num, (float)keep{i}}}")
    outputs = fused.run(
        ["adamw"],
        f"adamw({{{', '.join(rows)}}}, in{len(vectors)}_p, step_size, correction, beta1, beta2, eps);",
        [tensor[0].shape for tensor in tensors for _ in range(3)],
        [*vectors, scale],
        beta1=betas[0],
        beta2=betas[1],
        eps=eps,
        **{f"keep{i}": tensor[4] for i, tensor in enumerate(tensors)},
        **numbers,
    )
    return [tuple(outputs[start : start + 3]) for start in range(0, len(outputs), 3)]


def composed(parameter, gradient, first, second, keep: float, scale, betas, eps: float, step_size, correction):
    """One tensor's update in plain Jittor: its new values, first and second moment, shaped like it, float32.

    The formula is that of `adamw`, with `keep` 1 − rate · decay, `step_size` rate / (1 − β₁ᵗ) and `correction`
    1 / √(1 − β₂ᵗ).
    """
    # numbers that change every step travel as data: some of them Jittor would compile in as constants
    keep, step_size, correction = (
        jt.array(np.array([number] * 2, np.float32))[:1] for number in (keep, step_size, correction)
    )
    gradient = gradient * scale
    first = betas[0] * first + (1 - betas[0]) * gradient
    second = betas[1] * second + (1 - betas[1]) * gradient * gradient
    return parameter * keep - step_size * first / (jt.sqrt(second) * correction + eps), first, second


def proofs(rng: np.random.Generator):
    """Both kernels, on tensors of less than a vector, of no multiple of four, and of more than one block's piece."""
    sizes, betas, eps, keeps = (3, 1003, 4099), (0.9, 0.999), 1e-8, (1.0, 0.99, 0.9)
    numbers = {"step_size": 0.01, "correction": 1.2}
    inputs = [array for size in sizes for array in (*rng.standard_normal((3, size)), rng.random(size))]

    def tensors(arrays):
        return [(*arrays[4 * i : 4 * i + 4], keep) for i, keep in enumerate(keeps)]

    def by_kernel(scale, *arrays):
        return [new for some in _fused(tensors(arrays), scale, betas, eps, numbers) for new in some]

    def by_definition(scale, *arrays):
        return [new for one in tensors(arrays) for new in composed(*one, scale, betas, eps, **numbers)]

    yield Comparison("an update", by_kernel, by_definition, [np.array([0.5]), *inputs], gradient=False)
    yield Comparison(
        "a sum of squares", lambda *x: _sum_of_squares(x), lambda *x: _composed_sum(x), inputs[::4], gradient=False
    )


def sum_of_squares(arrays: Sequence):
    """Σ x² over all elements of all arrays, float32: a Var of one element."""
    if not fused.enabled("adamw"):
        return _composed_sum(arrays)
    return sum(_sum_of_squares(arrays[start : start + AT_ONCE]) for start in range(0, len(arrays), AT_ONCE))


def _composed_sum(arrays):
    return sum((array * array).sum() for array in arrays)


def _sum_of_squares(arrays):
    rows = ", ".join(f"{{in{i}_p, in{i}->num}}" for i in range(len(arrays)))
    (total,) = fused.run(["adamw"], f"sum_of_squares({{{rows}}}, out0_p);", [[1]], list(arrays))
    return total
