"""An adapter that began with a part of its base's weights (PiSSA, OLoRA) as a plain one, for the base as it is.

With W = R + s B₀ A₀ at the start and R + s B A now, what was learnt is s (B A − B₀ A₀) = s [B −B₀] [A ; A₀]: twice the
rank, as PEFT's `path_initial_model_for_weight_conversion` makes it. Nothing here needs Jittor.
"""

import dataclasses
import math
from pathlib import Path

import numpy as np

from common.errors import UserError
from gpt2_jittor.checkpoint.weights import read_tensors
from lora.files import Adapter
from lora.keys import EMBEDDING_A, is_a, layer_of, other_of
from lora.problems import changes_base
from lora.starts import taken_from


def to_plain(adapter: Adapter, base: Path) -> Adapter:
    """The plain adapter that does to the model in the folder `base` what `adapter` does to its changed weights.

    Raises UserError where it is plain already, and where the base has no such weights.
    """
    config = adapter.config
    if not changes_base(config.init_lora_weights):
        raise UserError(
            f"init_lora_weights is {config.init_lora_weights}: this adapter leaves its base as it is already"
        )
    keys = {f"{layer_of(key)}.weight": key for key in adapter.tensors if is_a(key)}
    tensors = dict(adapter.tensors)
    for name in [name for name, key in keys.items() if key.endswith(EMBEDDING_A)]:
        # began with no part of its weight, whatever the other layers' start
        a, b = tensors[key := keys.pop(name)], tensors[other_of(key)]
        _twice(tensors, key, np.zeros_like(a), np.zeros_like(b))
    for name, weight in read_tensors(base):
        if (key := keys.pop(name, None)) is None:
            continue
        a, b = adapter.tensors[key], adapter.tensors[other_of(key)]
        if weight.shape != (a.shape[1], b.shape[0]):
            raise UserError(f"{base} is not this adapter's base: {name} is {list(weight.shape)} there")
        _twice(tensors, key, *taken_from(weight, config.for_path(layer_of(key))))
    if keys:
        raise UserError(f"{base} is not this adapter's base: it has no {next(iter(keys))}")
    return dataclasses.replace(adapter, config=_twice_the_rank(adapter), tensors=tensors)


def _twice(tensors: dict[str, np.ndarray], key: str, first_a: np.ndarray, first_b: np.ndarray) -> None:
    """Puts what a pair of matrices began with beside them."""
    tensors[key] = np.concatenate([tensors[key], first_a])
    tensors[other_of(key)] = np.concatenate([tensors[other_of(key)], -first_b], axis=1)


def _twice_the_rank(adapter: Adapter):
    """Its settings with the same scaling at twice the rank."""
    config = adapter.config
    factor = math.sqrt(2) if config.use_rslora else 2
    return dataclasses.replace(
        config,
        r=2 * config.r,
        lora_alpha=factor * config.lora_alpha,
        rank_pattern={key: 2 * rank for key, rank in config.rank_pattern.items()},
        alpha_pattern={key: factor * alpha for key, alpha in config.alpha_pattern.items()},
        init_lora_weights=True,
    )
