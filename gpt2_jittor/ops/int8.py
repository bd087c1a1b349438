"""Weights in int8 with a scale for each output: a quarter of the memory, of which decoding has to read all.

An output's int8 times its scale are its weights again, within half a scale, which is 1/254 of the largest of them.
Activations stay float32.
"""

import numpy as np

from gpt2_jittor.ops import fused
from gpt2_jittor.ops.linear import linear
from gpt2_jittor.runtime.backend import jt

ROWS_AT_A_TIME = 1024  # of those that are quantised: float32 copies of a whole table would be as large as it
PANEL = 64  # columns that lie together: PANEL of kernels/products.h
_KERNELS = ("vectors", "products", "sgemm", "int8")


def quantize_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 [outputs, inputs] → int8 of the same shape, in −127 … 127, and float32 scales [outputs].

    A scale is the largest magnitude of its row / 127; int8 · scale is off by at most half a scale.
    """
    scales = np.maximum(rows.max(axis=1), -rows.min(axis=1)) / np.float32(127)
    scales[scales == 0] = 1
    small = np.empty(rows.shape, np.int8)
    for start in range(0, len(rows), ROWS_AT_A_TIME):
        part = slice(start, start + ROWS_AT_A_TIME)
        small[part] = np.rint(rows[part] / scales[part, None])
    return small, scales


def to_panels(rows: np.ndarray) -> np.ndarray:
    """int8 [outputs, inputs] as the kernels read a Conv1D weight: [panels, inputs, 64], filled up with zeros."""
    outputs, inputs = rows.shape
    panels = -(-outputs // PANEL)
    filled = np.zeros((panels * PANEL, inputs), np.int8)
    filled[:outputs] = rows
    return np.ascontiguousarray(filled.reshape(panels, PANEL, inputs).transpose(0, 2, 1))


def int8_linear(x, panels, scales, bias):
    """x @ weight + bias, forward only: x [..., in], panels [panels, in, 64], scales and bias [out] → [..., out]."""
    if not fused.products():
        # [panels, in, 64] -> [in, panels * 64] -> [in, out]
        weight = panels.float32().permute(1, 0, 2).reshape(panels.shape[1], -1)[:, : scales.shape[0]] * scales
        return linear(x, weight, bias)
    (y,) = fused.run(
        _KERNELS,
        "int8_product(Panels{in1_p, in2_p, in1_shape1, in2_shape0}, in0_p, in0_shape0, out0_p);",
        [[int(np.prod(x.shape[:-1])), scales.shape[0]]],
        [x.reshape(-1, x.shape[-1]), panels, scales],
    )
    return (y + bias).reshape(*x.shape[:-1], scales.shape[0])


def int8_transposed(x, rows, scales):
    """x @ weightᵀ, forward only: x [tokens, in], int8 rows [out, in], scales [out] → [tokens, out]."""
    if not fused.products():
        return jt.nn.matmul_transpose(x, rows.float32() * scales.unsqueeze(1))
    (y,) = fused.run(
        _KERNELS,
        "int8_transposed_product(in1_p, in2_p, in0_p, in0_shape0, in0_shape1, in1_shape0, out0_p);",
        [[x.shape[0], scales.shape[0]]],
        [x, rows, scales],
    )
    return y
