"""Products with narrow weights, int8 or bfloat16, forward only and on the CPU: decoding has to read all of them.

int8 has a scale for each output (`ops/int8.py`). bfloat16 is the upper half of a float32, and needs none. What they are
multiplied by stays float32, but where a few rows are multiplied with int8 (`ops/decode_step.py`): there it is whole
numbers of 16 bits times a scale for each row, which is 258 times as fine as the weight's own.
"""

from collections.abc import Callable

import numpy as np

from gpt2_jittor.ops import fused
from gpt2_jittor.ops.int8 import ROWS_AT_A_TIME, quantize_rows
from gpt2_jittor.ops.matmul import bf16_bits, matmul
from gpt2_jittor.runtime.backend import jt

PANEL = 64  # columns that lie together: PANEL of kernels/products.h
_KERNELS = ("shapes", "bfloat16", "vectors", "products", "sgemm", "narrow")
_C_TYPES = {"float32": "float", "int8": "int8_t", "bfloat16": "Bf16"}  # Bf16 is of kernels/bfloat16.h


def round_rows(rows: np.ndarray) -> tuple[np.ndarray]:
    """float32 [outputs, inputs] → bfloat16 as uint16 of the same shape: the nearest, ties to even."""
    bits = np.empty(rows.shape, np.uint16)
    for start in range(0, len(rows), ROWS_AT_A_TIME):
        part = slice(start, start + ROWS_AT_A_TIME)
        bits[part] = bf16_bits(rows[part])
    return (bits,)


# what makes float32 rows [outputs, inputs] narrow: the values, and a scale for each row where the format has them
FORMATS: dict[str, Callable[[np.ndarray], tuple[np.ndarray, ...]]] = {"int8": quantize_rows, "bf16": round_rows}


def to_panels(rows: np.ndarray) -> np.ndarray:
    """[outputs, inputs] as the kernels read a Conv1D weight in bfloat16: [panels, inputs, 64], filled up with zeros."""
    outputs, inputs = rows.shape
    panels = -(-outputs // PANEL)
    filled = np.zeros((panels * PANEL, inputs), rows.dtype)
    filled[:outputs] = rows
    return np.ascontiguousarray(filled.reshape(panels, PANEL, inputs).transpose(0, 2, 1))


def as_read(values: np.ndarray) -> np.ndarray:
    """[outputs, inputs] as the kernels read a Conv1D weight: int8 by rows, as it is, bfloat16 in panels."""
    return to_panels(values) if values.dtype == np.uint16 else values


def to_var(values: np.ndarray):
    """A Var of narrow values: int8, or bfloat16 where they are uint16."""
    kept = jt.array(values)
    if values.dtype != np.uint16:
        return kept
    return jt.code(
        kept.shape,
        "bfloat16",
        [kept],
        cpu_header="#include <cstring>\n",
        cpu_src="std::memcpy(out0_p, in0_p, in0->size);",
    )


def c_type(var) -> str:
    """What the kernels call the type of a weight's values."""
    return _C_TYPES[str(var.dtype)]


def pointer(var, name: str) -> str:
    """In C++, the pointer to the values of a weight that is the input called `name`."""
    return f"(const {c_type(var)}*){name}_p"


def narrow_linear(x, weight, *scales_and_bias):
    """x @ weight + bias: x float32 [..., in], weight in bfloat16 panels [panels, in, 64], or in int8 rows [out, in] and
    then scales [out], and the bias [out] → [..., out]."""
    *scales, bias = scales_and_bias
    flat = x.reshape(-1, x.shape[-1])
    y = narrow_transposed(flat, weight, *scales) if scales else _by_panels(flat, weight, bias.shape[0])
    return (y + bias).reshape(*x.shape[:-1], bias.shape[0])


def _by_panels(x, panels, outputs: int):
    if not fused.products():
        # [panels, in, 64] -> [in, panels * 64] -> [in, out]
        return matmul(x, panels.float32().permute(1, 0, 2).reshape(panels.shape[1], -1)[:, :outputs])
    (y,) = fused.run(
        _KERNELS,
        f"narrow_product(Panels{{{pointer(panels, 'in1')}, in1_shape1, out0_shape1}}, in0_p, in0_shape0, out0_p);",
        [[x.shape[0], outputs]],
        [x, panels],
    )
    return y


def narrow_transposed(x, rows, *scales):
    """x @ weightᵀ: x float32 [tokens, in], rows [out, in] and their scales [out], if any → [tokens, out]."""
    if not fused.products():
        return matmul(x, widened(rows, *scales), transposed=True)
    (y,) = fused.run(
        _KERNELS,
        f"narrow_transposed_product(Table<{c_type(rows)}>"
        f"{{{pointer(rows, 'in1')}, {'in2_p' if scales else 'nullptr'}, in1_shape0}},"
        " in0_p, in0_shape0, in0_shape1, out0_p);",
        [[x.shape[0], rows.shape[0]]],
        [x, rows, *scales],
    )
    return y


def widened(rows, *scales):
    """float32 of narrow rows [..., in] and of their scales [...], if any."""
    wide = rows.float32()
    return wide * scales[0].unsqueeze(-1) if scales else wide
