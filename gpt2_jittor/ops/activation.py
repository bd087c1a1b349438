"""The activations that a GPT-2 configuration can name, by Hugging Face's names.

GPT-2's own, `gelu_new`, has a fused kernel; the others run composed everywhere.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gpt2_jittor.ops import fused
from gpt2_jittor.ops.proof import Comparison
from gpt2_jittor.runtime.backend import jt

_SQRT_2_OVER_PI = math.sqrt(2 / math.pi)


def gelu_new(x):
    """GPT-2's GELU: 0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³))), Hendrycks and Gimpel 2016."""
    return _GeluNew.apply(x) if fused.enabled("gelu_new") else gelu_new_composed(x)


def gelu_new_composed(x):
    """`gelu_new` in plain Jittor: the definition, for every device."""
    return 0.5 * x * (1 + tanh(_SQRT_2_OVER_PI * (x + 0.044715 * x * x * x)))


def proofs(rng: np.random.Generator):
    """Of gelu_new: a number of elements that is no multiple of four, some of them where it is 0 or x."""
    yield Comparison("1,003 numbers", _GeluNew.apply, gelu_new_composed, [4 * rng.standard_normal(1003)])


def gelu(x):
    """The exact GELU, x Φ(x)."""
    return 0.5 * x * (1 + jt.erf(x / math.sqrt(2)))


def tanh(u):
    """tanh, whose gradient stays finite: that of Jittor's own is NaN below about −20."""
    return 1 - 2 / (jt.exp(2 * jt.clamp(u, -15, 15)) + 1)  # beyond 15, tanh is ±1 in float32


def quick_gelu(x):
    """x σ(1.702 x)."""
    return x * jt.sigmoid(1.702 * x)


def silu(x):
    """x σ(x), also named swish."""
    return x * jt.sigmoid(x)


def relu(x):
    """max(x, 0)."""
    return jt.maximum(x, 0.0)


ACTIVATIONS = {
    "gelu_new": gelu_new,
    "gelu_pytorch_tanh": gelu_new,
    "gelu_fast": gelu_new,
    "gelu": gelu,
    "quick_gelu": quick_gelu,
    "silu": silu,
    "swish": silu,
    "relu": relu,
    "tanh": tanh,
}


def _gelu_new_forward(x):
    (y,) = fused.run(["exp", "gelu_new"], "gelu_new_forward(in0_p, out0_p, in0->num);", [x.shape], [x])
    return y


def _gelu_new_backward(x, dy):
    (dx,) = fused.run(["exp", "gelu_new"], "gelu_new_backward(in0_p, in1_p, out0_p, in0->num);", [x.shape], [x, dy])
    return dx


class _GeluNew(jt.Function):
    def execute(self, x):
        """x float32 → the same shape. Only x is kept."""
        self.x = x
        return _gelu_new_forward(x)

    def grad(self, dy):
        """The gradient by x, whose tanh is computed again."""
        return _gelu_new_backward(self.x, dy)


@dataclass(frozen=True)
class Recomputed:
    """An activation inside a fused operator that keeps its input alone: `forward(x)`, `backward(x, dy)` → dx."""

    forward: Callable
    backward: Callable

    @classmethod
    def split(cls, activation: Callable | None, x) -> tuple:
        """(what the operator is given, and keeps; what it does to it), for activation(x).

        An activation without a kernel is computed here, and is kept.
        """
        if activation is gelu_new:
            return x, _GELU_NEW
        return (x if activation is None else activation(x)), _NOTHING


_GELU_NEW = Recomputed(_gelu_new_forward, _gelu_new_backward)
_NOTHING = Recomputed(lambda x: x, lambda x, dy: dy)
