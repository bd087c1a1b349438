"""A projection and the two small products that LoRA adds to it, as one operator."""

import numpy as np

from gpt2_jittor.ops import dropout as dropout_op
from gpt2_jittor.ops import fused, linear
from gpt2_jittor.ops.activation import Recomputed
from gpt2_jittor.ops.frozen import is_trained
from gpt2_jittor.ops.matmul import current_precision, matmul
from gpt2_jittor.ops.operand import NO_WEIGHT, Operand, has_kernel
from gpt2_jittor.ops.proof import Comparison
from gpt2_jittor.runtime.backend import jt


def _lora(a: str, b: str, inputs: str, outputs: str) -> str:
    """In C++, what kernels are told of LoRA; x is the first input."""
    return f"""
        const Lora lora = {{{a}, {b}, in0_shape0, {inputs}, {outputs}, (long)r, (float)scaling, (uint32_t)seed,
                           (uint32_t)threshold, (float)(1 / (1 - p))}};
    """


def lora_linear(x, weight, bias, a, b, scaling: float, dropout: float = 0.0, activation=None, factor=None):
    """factor · (z @ weight + scaling · dropout(z) @ aᵀ @ bᵀ) + bias with z = activation(x).

    x [..., in], weight [in, out], bias [out], a [r, in], b [out, r], factor [out] (DoRA's, nowhere 0) or None, all
    float32 → [..., out]; or the weight is a `FrozenWeight`. `activation` as of `linear`. Neither dropout(z) nor z is
    kept for the backward pass, nor what `factor` multiplies: that is found again from the result, which the next
    operator keeps anyway.
    """
    seed = dropout_op.seeds.next() if dropout else 0
    flat = x.reshape(-1, x.shape[-1])  # [rows, in]
    if has_kernel("lora", weight):
        before, recomputed = Recomputed.split(activation, flat)
        y = _LoraLinear.apply(before, weight, bias, a, b, factor, recomputed, scaling, dropout, seed)
    else:
        z = flat if activation is None else activation(flat)
        y = composed(z, weight, bias, a, b, scaling, dropout, seed, factor)
    return y.reshape(*x.shape[:-1], weight.shape[1])


def low_rank(x, a, b, scaling: float, dropout: float = 0.0):
    """scaling · dropout(x) @ aᵀ @ bᵀ alone, for a base of another kind: float32 x [..., in] → [..., out]."""
    seed = dropout_op.seeds.next() if dropout else 0
    y = _low_rank(x.reshape(-1, x.shape[-1]), a, b, scaling, dropout, seed)
    return y.reshape(*x.shape[:-1], b.shape[0])


def composed(x, weight, bias, a, b, scaling: float, dropout: float, seed: int, factor=None):
    """`lora_linear` in plain Jittor, without its activation: x [rows, in] → [rows, out]."""
    low = _low_rank(x, a, b, scaling, dropout, seed)
    if factor is None:
        return linear.composed(x, weight, bias) + low
    return (linear.composed(x, weight, None) + low) * factor.unsqueeze(0) + bias


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
            lambda *x, numbers=numbers: _LoraLinear.apply(*x, None, recomputed, *numbers),
            lambda *x, numbers=numbers: composed(*x, *numbers),
            inputs,
        )
    yield Comparison(
        "a product and DoRA",
        lambda *x: _LoraLinear.apply(*x, recomputed, 0.7, 0.0, 0),
        lambda *x: composed(*x[:-1], 0.7, 0.0, 0, x[-1]),
        [*inputs, rng.uniform(0.5, 2, outputs)],
    )


class _LoraLinear(jt.Function):
    def execute(self, x, weight, bias, a, b, factor, activation, scaling, dropout, seed):
        """x [rows, in] → [rows, out]. `activation` is a `Recomputed`; scaling · dropout(z) @ aᵀ is kept, [rows, r]."""
        self.x, self.weight, self.a, self.b, self.activation = x, weight, a, b, activation
        self.factor, self.bias, self.precision = factor, bias, current_precision()
        self.trained = is_trained(weight), is_trained(bias)
        self.numbers = {
            "r": a.shape[0],
            "scaling": scaling,
            "p": dropout,
            "seed": seed,
            "threshold": dropout_op.threshold(dropout),
        }
        rows, outputs = x.shape[0], weight.shape[1]
        operand = Operand.of(weight, 1, 5, self.precision)
        given = activation.forward(x)
        # an operator of its own, for a block that is computed again needs no more of its last projection
        (self.low,) = self._run(
            _lora("in1_p", "nullptr", "in1_shape1", "0") + "lora_low(lora, in0_p, out0_p);",
            [[rows, a.shape[0]]],
            [given, a],
        )
        (y,) = self._run(
            _lora("nullptr", "in3_p", "in1_shape0", "in1_shape1")
            + f"lora_forward(lora, in0_p, {operand.cpp}, in2_p, in4_p, out0_p);",
            [[rows, outputs]],
            [given, operand.first, bias if factor is None else jt.zeros_like(bias), b, self.low],
            operand,
        )
        if factor is not None:
            (y,) = self._run(
                "lora_scaled(in0_p, in1_p, in2_p, out0_p, in0_shape0, in0_shape1);", [y.shape], [y, factor, bias]
            )
            self.y = y
        return y

    def grad(self, dy):
        """dy [rows, out] → the gradients by x, weight, bias, a, b and factor, each shaped like it."""
        by_weight, by_bias = self.trained
        dbias, dfactor = dy.sum(0) if by_bias else None, None
        if self.factor is not None:
            dy, dfactor = self._run(
                "lora_scaled_backward(in0_p, in1_p, in2_p, in3_p, out0_p, out1_p, in0_shape0, in0_shape1);",
                [dy.shape, self.factor.shape],
                [dy, self.y, self.factor, self.bias],
            )
        operand = Operand.of(self.weight, 1, 4, self.precision)
        dlow, da, db = self._run(
            _lora("in3_p", "in4_p", "in5_shape0", "in5_shape1")
            + "lora_backward(lora, in0_p, in1_p, in2_p, out0_p, out1_p, out2_p);",
            [self.low.shape, self.a.shape, self.b.shape],
            [self.activation.forward(self.x), dy, self.low, self.a, self.b, operand.first],
        )
        (dx,) = self._run(
            _lora("in3_p", "nullptr", "in1_shape0", "in1_shape1")
            + f"lora_by_input(lora, in0_p, {operand.cpp}, in2_p, out0_p);",
            [self.x.shape],
            [dy, operand.first, dlow, self.a],
            operand,
        )
        given = self.activation, self.x, self.weight, dy, self.precision
        dweight = linear.weight_gradient(*given) if by_weight else None
        return self.activation.backward(self.x, dx), dweight, dbias, da, db, dfactor, None, None, None, None

    def _run(self, call, shapes, inputs, operand=NO_WEIGHT):
        kernels = ["shapes", "random", *operand.kernels, "lora"]
        return fused.run(kernels, call, shapes, [*inputs, *operand.more], **self.numbers, **operand.numbers)
