"""The two types of 16 bits, and how far off they may be."""

import numpy as np
import torch

HALVES = ("fp16", "bf16")
TORCH = {"fp16": torch.float16, "bf16": torch.bfloat16}
# How far a product's relative error can go. Two factors and the result are rounded to 11 significant bits, or to 8: by
# half of the last one each, 2^-11 or 2^-8 of the number at most. EPSILON, 2^-10 or 2^-7, is twice that, and errors of
# many factors cancel in part.
EPSILON = {name: torch.finfo(dtype).eps for name, dtype in TORCH.items()}


def relative(found, expected) -> float:
    """The error's norm over that of what is expected."""
    return float(np.linalg.norm(np.asarray(found) - expected) / np.linalg.norm(expected))
