"""Ids, labels and masks as they are given, checked before they reach the device."""

import numpy as np

from gpt2_jittor.runtime.backend import jt


def on_host(values) -> np.ndarray:
    """Ids, labels or a mask as integers on the host, where they are checked before they are narrowed to int32."""
    values = values.numpy() if isinstance(values, jt.Var) else np.asarray(values)
    if values.dtype.kind not in "iub":
        raise ValueError(f"integers are needed, not {values.dtype}")
    return values.astype(np.int64)


def check_ids(ids: np.ndarray, size: int, name: str, of: str = "vocabulary") -> None:
    """Raises ValueError for an id that is none of 0 … size − 1."""
    if ids.size and not (ids.min() >= 0 and ids.max() < size):
        raise ValueError(f"{name} hold {ids.min()} to {ids.max()}, the {of} 0 to {size - 1}")
