"""From float32 numbers to what is kept of them in int8 or 16 bits."""

import numpy as np

from gpt2_jittor.ops.frozen import FrozenWeight
from gpt2_jittor.ops.int8 import quantize_rows
from gpt2_jittor.ops.matmul import to_half
from gpt2_jittor.runtime.backend import jt


def frozen_weight(array: np.ndarray, precision: str, is_table: bool, threshold: float = 0.0) -> FrozenWeight:
    """float32 numbers [n, m] in "int8", "bf16" or "fp16", rounded to the nearest; `threshold` as of int8's products."""
    if precision != "int8":
        parts = [to_half(array, precision)]
    else:
        whole, scales = quantize_rows(array if is_table else array.T)
        oriented = (whole, scales[:, None]) if is_table else (np.ascontiguousarray(whole.T), scales[None])
        parts = [jt.array(part) for part in oriented]
    for part in parts:
        part.stop_grad()
        part.sync()  # the float32 numbers are not needed any more
    return FrozenWeight(*parts, threshold=threshold)
