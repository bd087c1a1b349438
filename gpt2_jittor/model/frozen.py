"""A checkpoint read into a base of fewer bits: tensor by tensor, so that no model of float32 numbers ever exists.

Projections, token embedding and a head of its own are kept in them, for training (`ops/frozen.py`) or for use only
(`model/quantized.py`). Norms, biases, positions and a classifier's head stay float32.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np

from common.errors import UserError
from common.memory import give_back
from gpt2_jittor.checkpoint.initial import with_rows
from gpt2_jittor.checkpoint.stored import EMBEDDING, HEAD
from gpt2_jittor.model.layers import Conv1D, Embedding, Head, Layer
from gpt2_jittor.model.quantized import narrow, quantize
from gpt2_jittor.ops.freezing import frozen_weight
from gpt2_jittor.runtime.backend import jt

TABLES = (EMBEDDING, HEAD)


def assign_all(
    model,
    tensors: Iterable[tuple[str, np.ndarray]],
    base: str = "fp32",
    threshold: float = 0.0,
    weights: str = "fp32",
    vocabulary: int | None = None,
) -> None:
    """Puts a checkpoint's tensors, float32 numbers by their names, in their places in a model that was just built.

    base: what the large ones are kept in for training, threshold: of int8's outliers. weights: what they are kept in
    for use only; at most one of the two. vocabulary: how many rows the token tables get, as of
    `GPT2PreTrained.resize_token_embeddings`; None for those that they have.
    Raises UserError for a number that float16 cannot hold.
    """
    kept = _kept(model) if (base, weights) != ("fp32", "fp32") else {}
    for layer in kept.values():
        layer.weight = None  # or Jittor would make its zeros with the first tensor that is read
    for name, array in tensors:
        is_table = name in TABLES
        if is_table and vocabulary:
            array = with_rows(array, vocabulary)
        if name in kept and weights != "fp32":
            kept[name].weight = narrow(array, weights, is_table)
        elif name in kept:
            check_range(name, array, base)
            kept[name].weight = frozen_weight(array, base, is_table, threshold)
        elif is_table and vocabulary:
            model.parameter(name.removesuffix(".weight")).weight = jt.array(array)
        else:
            model.parameter(name).assign(array)
        del array  # before the next one is read
    if vocabulary:
        model.config = dataclasses.replace(model.config, vocab_size=vocabulary)
    if base != "fp32":
        model.base_precision, model.int8_threshold = base, threshold if base == "int8" else None
        jt.gc()
        give_back()
    if weights != "fp32":
        quantize(model, weights)  # and gives memory back


def _kept(model) -> dict[str, Layer]:
    """The layers whose weights are kept in fewer bits, by the weights' names."""
    named = {f"{path}.weight": layer for path, layer in model.layers().items()}
    return {
        name: layer
        for name, layer in named.items()
        if isinstance(layer, Conv1D) or (name in TABLES and isinstance(layer, Embedding | Head))
    }


def check_range(name: str, array: np.ndarray, precision: str) -> None:
    """Raises UserError for a number that float16 cannot hold, where that is what it is to be kept in."""
    if precision == "fp16" and (largest := np.abs(array).max(initial=0)) > np.finfo(np.float16).max:
        raise UserError(f"{name} holds {largest:.3g}, more than fp16 can: use bf16 or fp32")
