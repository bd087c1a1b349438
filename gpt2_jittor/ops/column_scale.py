"""Each column of a product times a factor of its own, and then a bias: what DoRA does with a projection's output."""

from gpt2_jittor.runtime.backend import jt


def column_scale(x, factor, bias):
    """x · factor + bias: x [..., out], factor [out], none of them 0, bias [out], float32 → [..., out].

    x is not kept for the backward pass: it is found again from the result, which the next operator keeps anyway.
    """
    return _ColumnScale.apply(x.reshape(-1, x.shape[-1]), factor, bias).reshape(x.shape)


class _ColumnScale(jt.Function):
    def execute(self, x, factor, bias):
        """x [rows, out] → [rows, out]."""
        self.factor, self.bias = factor, bias
        self.y = x * factor.unsqueeze(0) + bias.unsqueeze(0)
        return self.y

    def grad(self, dy):
        """dy [rows, out] → the gradients by x [rows, out], factor [out] and bias [out]."""
        by_factor = (dy * (self.y - self.bias.unsqueeze(0))).sum(0) / self.factor
        return dy * self.factor.unsqueeze(0), by_factor, dy.sum(0)
