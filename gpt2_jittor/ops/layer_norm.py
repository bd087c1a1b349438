"""Layer normalisation over the last axis.

Jittor's own computes E[x²] − E[x]², which loses everything where the mean is large: two passes here.
"""

import numpy as np

from gpt2_jittor.ops import fused
from gpt2_jittor.ops.frozen import is_trained
from gpt2_jittor.ops.proof import Comparison
from gpt2_jittor.runtime.backend import jt


def layer_norm(x, weight, bias, eps: float):
    """(x − mean) / √(variance + eps) · weight + bias.

    x [..., width] float32, weight and bias [width] → [..., width]. The variance is the biased one, as torch's.
    """
    if fused.enabled("layer_norm"):
        return _LayerNorm.apply(x, weight, bias, eps)
    return composed(x, weight, bias, eps)


def composed(x, weight, bias, eps: float):
    """`layer_norm` in plain Jittor: the definition, for every device."""
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred * centred).mean(-1, keepdims=True)
    return centred / jt.sqrt(variance + eps) * weight + bias


def proofs(rng: np.random.Generator):
    """Rows around vectors, a warp and parts of 64 of them, of a mean far from 0."""
    for rows, width in ((5, 33), (70, 68), (3, 771)):
        inputs = [rng.standard_normal((rows, width)) + 3, *rng.standard_normal((2, width))]
        yield Comparison(
            f"{rows} rows of {width}", lambda *x: _LayerNorm.apply(*x, 1e-5), lambda *x: composed(*x, 1e-5), inputs
        )


class _LayerNorm(jt.Function):
    def execute(self, x, weight, bias, eps):
        """x [..., width] → the same shape. Keeps x, and each row's mean and 1 / √(variance + eps), [rows]."""
        self.shape, self.weight, self.is_trained = x.shape, weight, is_trained(weight) or is_trained(bias)
        self.x = x.reshape(-1, x.shape[-1])  # [rows, width]
        rows = self.x.shape[0]
        y, self.mean, self.rstd = fused.run(
            ["layer_norm"],
            "layer_norm_forward(in0_p, in1_p, in2_p, out0_p, out1_p, out2_p, in0_shape0, in0_shape1, eps);",
            [self.x.shape, [rows], [rows]],
            [self.x, weight, bias],
            eps=eps,
        )
        return y.reshape(self.shape)

    def grad(self, dy):
        """dy [..., width] → the gradients by x, and by weight and bias [width]."""
        dy = dy.reshape(self.x.shape)
        (dx,) = fused.run(
            ["layer_norm"],
            "layer_norm_backward(in0_p, in1_p, in2_p, in3_p, in4_p, out0_p, in0_shape0, in0_shape1);",
            [self.x.shape],
            [dy, self.x, self.weight, self.mean, self.rstd],
        )
        dweight, dbias = None, None
        if self.is_trained:
            dweight, dbias = fused.run(
                ["layer_norm"],
                "layer_norm_backward_affine(in0_p, in1_p, in2_p, in3_p, out0_p, out1_p, in0_shape0, in0_shape1);",
                [self.weight.shape, self.weight.shape],
                [dy, self.x, self.mean, self.rstd],
            )
        return dx.reshape(self.shape), dweight, dbias, None
