"""A projection and the two small products that LoRA adds to it, as one operator."""

import numpy as np

from gpt2_jittor.ops import dropout as dropout_op
from gpt2_jittor.ops import fused, linear
from gpt2_jittor.ops.activation import Recomputed
from gpt2_jittor.ops.matmul import matmul
from gpt2_jittor.ops.proof import Comparison
from gpt2_jittor.runtime.backend import jt

_LORA = """
    const Lora lora = {{{a}, {b}, in0_shape0, {weight}_shape0, {weight}_shape1, (long)r, (float)scaling, (uint32_t)seed,
                       (uint32_t)threshold, (float)(1 / (1 - p))}};
"""


def lora_linear(x, weight, bias, a, b, scaling: float, dropout: float = 0.0, activation=None):
    """z @ weight + bias + scaling · dropout(z) @ aᵀ @ bᵀ with z = activation(x).

    x [..., in], weight [in, out], bias [out] or None, a [r, in], b [out, r], all float32 → [..., out]. `activation` as
    of `linear`. Neither dropout(z) nor z is kept for the backward pass.
    """
    bias = jt.zeros((weight.shape[1],)) if bias is None else bias
    seed = dropout_op.seeds.next() if dropout else 0
    flat = x.reshape(-1, x.shape[-1])  # [rows, in]
    if fused.products() or fused.products_on_cuda("lora"):
        before, recomputed = Recomputed.split(activation, flat)
        y = _LoraLinear.apply(before, weight, bias, a, b, recomputed, scaling, dropout, seed)
    else:
        y = composed(flat if activation is None else activation(flat), weight, bias, a, b, scaling, dropout, seed)
    return y.reshape(*x.shape[:-1], weight.shape[1])


def low_rank(x, a, b, scaling: float, dropout: float = 0.0):
    """scaling · dropout(x) @ aᵀ @ bᵀ alone, for a base of another kind: float32 x [..., in] → [..., out]."""
    seed = dropout_op.seeds.next() if dropout else 0
    y = _low_rank(x.reshape(-1, x.shape[-1]), a, b, scaling, dropout, seed)
    return y.reshape(*x.shape[:-1], b.shape[0])


def composed(x, weight, bias, a, b, scaling: float, dropout: float, seed: int):
    """`lora_linear` in plain Jittor, without its activation: x [rows, in] → [rows, out]."""
    return linear.composed(x, weight, bias) + _low_rank(x, a, b, scaling, dropout, seed)


def _low_rank(x, a, b, scaling: float, dropout: float, seed: int):
    dropped = dropout_op.composed(x, dropout, seed) if dropout else x
    low = matmul(dropped, a, transposed=True) * scaling  # [rows, r]
    return matmul(low, b, transposed=True)  # [rows, out]


def proofs(rng: np.random.Generator):
    """Sides of no multiple of four, a rank of no power of two, with dropout and without."""
    rows, width, outputs, r = 37, 29, 51, 5
    shapes = [(rows, width), (width, outputs), (outputs,), (r, width), (outputs, r)]
    inputs = [rng.standard_normal(shape) for shape in shapes]
    recomputed = Recomputed.split(None, None)[1]
    for dropout in (0.0, 0.3):
        numbers = (0.7, dropout, int(rng.integers(2**32)))
        yield Comparison(
            f"a product and LoRA, dropout {dropout}",
            lambda *x, numbers=numbers: _LoraLinear.apply(*x, recomputed, *numbers),
            lambda *x, numbers=numbers: composed(*x, *numbers),
            inputs,
        )


class _LoraLinear(jt.Function):
    def execute(self, x, weight, bias, a, b, activation, scaling, dropout, seed):
        """x [rows, in] → [rows, out]. `activation` is a `Recomputed`; scaling · dropout(z) @ aᵀ is kept, [rows, r]."""
        self.x, self.weight, self.a, self.b, self.activation = x, weight, a, b, activation
        self.numbers = {
            "r": a.shape[0],
            "scaling": scaling,
            "p": dropout,
            "seed": seed,
            "threshold": dropout_op.threshold(dropout),
        }
        rows, outputs = x.shape[0], weight.shape[1]
        y, self.low = self._run(
            _LORA.format(a="in3_p", b="in4_p", weight="in1")
            + "lora_forward(lora, in0_p, in1_p, in2_p, out0_p, out1_p);",
            [[rows, outputs], [rows, a.shape[0]]],
            [activation.forward(x), weight, bias, a, b],
        )
        return y

    def grad(self, dy):
        """dy [rows, out] → the gradients by x, weight, bias, a and b, each shaped like it."""
        dlow, da, db = self._run(
            _LORA.format(a="in3_p", b="in4_p", weight="in5")
            + "lora_backward(lora, in0_p, in1_p, in2_p, out0_p, out1_p, out2_p);",
            [self.low.shape, self.a.shape, self.b.shape],
            [self.activation.forward(self.x), dy, self.low, self.a, self.b, self.weight],
        )
        (dx,) = self._run(
            _LORA.format(a="in3_p", b="nullptr", weight="in1") + "lora_by_input(lora, in0_p, in1_p, in2_p, out0_p);",
            [self.x.shape],
            [dy, self.weight, dlow, self.a],
        )
        dweight, dbias = linear.weight_gradients(self.activation, self.x, self.weight, dy)
        return self.activation.backward(self.x, dx), dweight, dbias, da, db, None, None, None, None

    def _run(self, call, shapes, inputs):
        return fused.run(["shapes", "random", "sgemm", "projection", "lora"], call, shapes, inputs, **self.numbers)
