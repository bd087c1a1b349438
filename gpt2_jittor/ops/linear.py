"""The product with a Conv1D-oriented weight, always as one 2-D product: only those reach oneDNN at full speed.

On CUDA it is cuBLAS's, in one operator with the bias.
"""

import numpy as np

from gpt2_jittor.ops import frozen, fused
from gpt2_jittor.ops.activation import Recomputed
from gpt2_jittor.ops.matmul import current_precision, matmul
from gpt2_jittor.ops.operand import HALF_KERNELS, Operand, has_kernel
from gpt2_jittor.ops.proof import Comparison
from gpt2_jittor.runtime.backend import jt


def linear(x, weight, bias=None, activation=None):
    """activation(x) @ weight + bias.

    x [..., in], weight [in, out], bias [out] or None, all float32 → [..., out]; or the weight is a `FrozenWeight`.
    `activation` is one of `ops.activation`, which the backward pass computes again rather than keep its result.
    """
    flat = x.reshape(-1, x.shape[-1])  # [rows, in]
    if has_kernel("projection", weight):
        before, recomputed = Recomputed.split(activation, flat)
        y = _Linear.apply(before, weight, bias, recomputed)
    else:
        y = composed(flat if activation is None else activation(flat), weight, bias)
    return y.reshape(*x.shape[:-1], weight.shape[1])


def composed(x, weight, bias):
    """x @ weight + bias in plain Jittor, in the current precision: x [rows, in] → [rows, out]."""
    y = frozen.projected(x, weight) if isinstance(weight, frozen.FrozenWeight) else matmul(x, weight)
    return y if bias is None else y + bias


def proofs(rng: np.random.Generator):
    """Sides of no multiple of four, with a bias and without."""
    x, weight, bias = rng.standard_normal((37, 29)), rng.standard_normal((29, 51)), rng.standard_normal(51)
    recomputed = Recomputed.split(None, None)[1]
    yield Comparison("a product", lambda *x: _Linear.apply(*x, recomputed), composed, [x, weight, bias])
    yield Comparison(
        "a product without a bias",
        lambda *x: _Linear.apply(*x, None, recomputed),
        lambda *x: composed(*x, None),
        [x, weight],
    )


class _Linear(jt.Function):
    def execute(self, x, weight, bias, activation):
        """activation(x) @ weight + bias: x [rows, in] → [rows, out]. `activation` is a `Recomputed`."""
        self.x, self.weight, self.activation = x, weight, activation
        self.trained, self.precision = (frozen.is_trained(weight), frozen.is_trained(bias)), current_precision()
        rows, outputs = x.shape[0], weight.shape[1]
        biases = [] if bias is None else [bias]
        operand = Operand.of(weight, 1, 2 + len(biases), self.precision)
        (y,) = fused.run(
            operand.kernels,
            f"projection(in0_p, {operand.cpp}, {'in2_p' if biases else 'nullptr'}, out0_p,"
            " in0_shape0, in1_shape0, in1_shape1);",
            [[rows, outputs]],
            [activation.forward(x), operand.first, *biases, *operand.more],
            **operand.numbers,
        )
        return y

    def grad(self, dy):
        """dy [rows, out] → the gradients by x [rows, in], weight [in, out] and bias [out]."""
        operand = Operand.of(self.weight, 1, 2, self.precision)
        (dx,) = fused.run(
            operand.kernels,
            f"projection_by_input(in0_p, {operand.cpp}, out0_p, in0_shape0, in1_shape0, in1_shape1, 0.0f);",
            [self.x.shape],
            [dy, operand.first, *operand.more],
            **operand.numbers,
        )
        by_weight, by_bias = self.trained
        dweight = weight_gradient(self.activation, self.x, self.weight, dy, self.precision) if by_weight else None
        return self.activation.backward(self.x, dx), dweight, dy.sum(0) if by_bias else None, None


def weight_gradient(activation, x, weight, dy, precision: str):
    """The gradient by a projection's weight, [in, out]."""
    kernels, function = (HALF_KERNELS, "halves") if precision == "bf16" else (["sgemm", "projection"], "projection")
    (dweight,) = fused.run(
        kernels,
        f"{function}_by_weight(in0_p, in1_p, out0_p, in0_shape0, in0_shape1, in1_shape1);",
        [weight.shape],
        [activation.forward(x), dy],
    )
    return dweight
