"""A matrix that is not trained, kept in int8 or 16 bits: what it holds, and how kernels are given it.

16 bits: its products are float32 products of its numbers.

int8, as LLM.int8() has it (Dettmers et al. 2022, https://arxiv.org/abs/2208.07339), the same on every processor. A
projection is Q · s, Q int8 [in, out] and s_j = max |W_j| / 127 for each column j. Of an input x [rows, in] the columns
O = {k : |x_ik| > threshold in any row i} stay as they are; the others are rounded, row by row:

    r_i = max {|x_ik| : k not in O} / 127      x̃_ik = x_ik for k in O, else r_i · rint(x_ik / r_i)
    y = x̃ (Q · s)

The gradient goes back through the same Q, the scales in its rows: g_ij = dy_ij s_j,

    t_i = max_j |g_ij| / 127                   dx = (t_i · rint(g_ij / t_i)) Qᵀ

With a threshold of 0 nothing is an outlier, as in bitsandbytes. That the gradient is rounded to the nearest and not at
random makes no difference that a loss shows (docs/performance.md).

A table of tokens [vocab, width] has a scale for each row. What it is multiplied by is not rounded to int8, for that
decides the logits: products are in float32, those of a loss in bfloat16 where the processor has instructions for it.
"""

import numpy as np

from gpt2_jittor.ops import fused, int8_instructions
from gpt2_jittor.runtime.backend import jt

KERNELS = ("bits", "bfloat16", "sgemm", "projection", "half_products", "frozen", "int8_products", "frozen_table")
ROWS_AT_A_TIME = 4096  # of a table, where all of it has to be read
_CPP = {"int8": "int8_t", "bfloat16": "Bf16", "float16": "Float16"}


def is_trained(weight) -> bool:
    """Whether a gradient by it will be asked for; of what a `jt.Function` is given, known while it executes alone.

    Jittor leaves out what nobody needs, but not where it executes each operator when it is made.
    """
    return isinstance(weight, jt.Var) and not weight.is_stop_grad()


class FrozenWeight:
    """Stands in a layer where else a float32 Var is its weight, and answers what is asked of one that is only read.

    values: Var [n, m]. scales: float32, [1, m] of a projection, [n, 1] of a table, None in 16 bits.
    """

    def __init__(self, values, scales=None, threshold: float = 0.0):
        self.values, self.scales, self.threshold = values, scales, threshold
        self._row_sum = None

    @property
    def shape(self) -> tuple[int, int]:
        """As of the float32 weight."""
        return tuple(self.values.shape)

    @property
    def dtype(self) -> str:
        """What it is kept in, by Jittor's name."""
        return str(self.values.dtype)

    def numel(self) -> int:
        """How many numbers it holds."""
        return self.values.numel()

    def float32(self):
        """All of it as a float32 Var [n, m]."""
        numbers = self.values.float32()
        return numbers if self.scales is None else numbers * self.scales

    def __getitem__(self, rows):
        """Rows by their numbers, an int32 Var [...] or a slice, as float32 [..., m]."""
        numbers = self.values[rows].float32()
        if self.scales is None:
            return numbers
        return numbers * (self.scales if self.scales.shape[0] == 1 else self.scales[rows])

    def row_sum(self):
        """The sum of all rows, float32 [1, m]; made once."""
        if self._row_sum is None:
            starts = range(0, self.shape[0], ROWS_AT_A_TIME)
            sums = [self[start : start + ROWS_AT_A_TIME].numpy().sum(axis=0, dtype=np.float64) for start in starts]
            self._row_sum = np.sum(sums, axis=0, keepdims=True).astype(np.float32)
        return jt.array(self._row_sum)

    @property
    def parts(self) -> list:
        """The Vars that a kernel is given."""
        return [self.values] if self.scales is None else [self.values, self.scales]

    def cpp(self, values: int, scales: int) -> str:
        """The kernels' own form of it, of the inputs with these numbers; it needs `numbers` with it."""
        kind = _CPP[self.dtype]
        scale = "nullptr" if self.scales is None else f"in{scales}_p"
        return f"Frozen<{kind}>{{(const {kind}*)in{values}_p, {scale}, (float)outliers, whole_numbers > 0}}"

    @property
    def numbers(self) -> dict[str, float]:
        """Numbers that `cpp` names."""
        return {"outliers": self.threshold, "whole_numbers": float(int8_instructions.work())}


def projected(x, weight: FrozenWeight):
    """x @ weight, differentiable in x, in plain Jittor: x [rows, in], a projection [in, out] → [rows, out]."""
    return _Projected.apply(x, weight)


class _Projected(jt.Function):
    """No float32 copy of the weight is kept for the backward pass: it is made anew."""

    def execute(self, x, weight):
        """x [rows, in] → [rows, out]."""
        self.weight = weight
        is_int8 = weight.scales is not None
        return jt.matmul(rounded_rows(x, weight.threshold) if is_int8 else x, weight.float32())

    def grad(self, dy):
        """dy [rows, out] → the gradient by x, [rows, in]."""
        weight = self.weight
        if weight.scales is not None:
            dy = rounded_rows(dy * weight.scales)
        return jt.nn.matmul_transpose(dy, weight.values.float32()), None


def rounded_rows(x, threshold: float = 0.0):
    """x [rows, n] as its rows are in int8, but for columns with a magnitude above the threshold; 0: all are rounded."""
    sizes = jt.abs(x)
    is_outlier = sizes.max(0, keepdims=True) > threshold if threshold else jt.zeros((1, x.shape[1])) > 0
    is_outlier = is_outlier.broadcast(x.shape)
    largest = jt.ternary(is_outlier, jt.zeros_like(x), sizes).max(1, keepdims=True)
    # of a row of zeros nothing is divided by 0
    scale = jt.ternary(largest > 0, largest, jt.ones_like(largest)) / 127
    return jt.ternary(is_outlier, x, jt.round(x / scale) * scale)


def logits(x, weight: FrozenWeight):
    """x @ weightᵀ, differentiable in x: x float32 [rows, width], a table [vocab, width] → [rows, vocab]."""
    if fused.products():
        return _Logits.apply(x, weight)
    return jt.nn.matmul_transpose(x, weight.float32())


class _Logits(jt.Function):
    def execute(self, x, weight):
        """x [rows, width] → [rows, vocab]."""
        self.weight, self.shape = weight, x.shape
        return self._run("table_logits", x, [x.shape[0], weight.shape[0]])

    def grad(self, dy):
        """dy [rows, vocab] → the gradient by x, [rows, width]."""
        return self._run("table_logits_by_input", dy, self.shape), None

    def _run(self, function: str, given, shape):
        weight = self.weight
        (made,) = fused.run(
            KERNELS,
            f"{function}(in0_p, {weight.cpp(1, 2)}, out0_p, in0_shape0, in1_shape1, in1_shape0);",
            [shape],
            [given, *weight.parts],
            **weight.numbers,
        )
        return made
