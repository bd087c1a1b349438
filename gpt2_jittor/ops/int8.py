"""Rows of a weight in int8 with a scale for each.

A row's int8 times its scale are its weights again, within half a scale, which is 1/254 of the largest of them.
"""

import numpy as np

ROWS_AT_A_TIME = 1024  # of those that are quantised: float32 copies of a whole table would be as large as it


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
