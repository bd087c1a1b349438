"""PEFT's keys: what an adapter's file calls the model's parameters, today and in older versions. No Jittor here.

A key is PREFIX and the place of the parameter among the model's modules, `….c_attn.lora_A.weight`. A layer that LoRA
wraps stands under `base_layer` here as in PEFT, so a place needs no other translation.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from common.errors import UserError

PREFIX = "base_model.model."
A, B, B_BIAS = ".lora_A.weight", ".lora_B.weight", ".lora_B.bias"
MAGNITUDE = ".lora_magnitude_vector"
EMBEDDING_A, EMBEDDING_B = ".lora_embedding_A", ".lora_embedding_B"
_PAIRS = ((A, B), (EMBEDDING_A, EMBEDDING_B))
ROWS = "transformer.wte.token_adapter.trainable_tokens_delta"
TIED_ROWS = f"{PREFIX}lm_head.token_adapter.trainable_tokens_delta"
_EMBEDDING = re.compile(r"(transformer\.wte|lm_head)(\.token_adapter)?(\.base_layer)?\.weight")

# with bias "all", PEFT stores the biases of modules_to_save again, under names of its own wrapper: the one that is
# trained, and the one that stood there before and that nothing uses any more
TRAINED, REPLACED = ".modules_to_save.", ".original_module."

# keys in a model's own state_dict: with the adapter's name, and DoRA's magnitude with its module's parameter
_WITH_NAME = re.compile(r"(.+\.lora_[AB])\.[^.]+(\.weight|\.bias)")
_WITH_NAME_LAST = re.compile(r"(.+\.(?:lora_embedding_[AB]|lora_magnitude_vector))\.[^.]+(?:\.weight)?")


def is_matrix(key: str) -> bool:
    """Whether a key, or a parameter's name, is that of a LoRA matrix, A or B."""
    return any(key.endswith(pair) for pair in _PAIRS)


def is_a(key: str) -> bool:
    """Whether it is that of an A."""
    return key.endswith(tuple(a for a, _ in _PAIRS))


def other_of(key: str) -> str:
    """The key of the B that belongs to an A, or the other way round."""
    for a, b in _PAIRS:
        for this, other in ((a, b), (b, a)):
            if key.endswith(this):
                return key.removesuffix(this) + other
    raise ValueError(f"{key} is no matrix's")


def layer_of(key: str) -> str | None:
    """The dotted path of the layer beside which LoRA, of whatever kind, has the tensor with this key; else None."""
    layer, lora, _ = key.removeprefix(PREFIX).partition(".lora_")
    return layer if lora else None


def embedding_of(key: str) -> str | None:
    """The path of the embedding that is stored whole under this key, None for another key.

    In the file of a model whose vocabulary was resized, one that is wrapped has its wrapper's names in its key.
    """
    found = _EMBEDDING.fullmatch(key.removeprefix(PREFIX))
    return found and found[1]


def todays_keys(stored: Mapping[str, np.ndarray], path: Path) -> dict[str, str]:
    """The keys of a file, and by each the one that PEFT writes today.

    Until 0.6 a wrapped layer's bias had no `base_layer` in its key, and matrices have the adapter's name in theirs
    where somebody saved the model's state_dict. What stands before all keys, as `module.` of torch's
    DistributedDataParallel, is left out, and so is what PEFT writes twice: an embedding's magnitudes. Raises UserError
    where two tensors have one key.
    """
    keys = list(stored)
    wrappers = {key.partition(PREFIX)[0] if PREFIX in key else "" for key in keys}
    wrapper = wrappers.pop() if len(wrappers) == 1 else ""
    wrapper = wrapper if wrapper.endswith(".") else ""
    renamed = {key: _WITH_NAME.sub(r"\1\2", key.removeprefix(wrapper)) for key in keys}
    renamed = {key: _WITH_NAME_LAST.sub(r"\1", name) for key, name in renamed.items()}
    matrices = set(renamed.values())
    for key, name in renamed.items():
        layer = name.removesuffix(".bias")
        if name != layer and layer + A in matrices:
            renamed[key] = f"{layer}.base_layer.bias"
    first: dict[str, str] = {}
    for key in keys:
        other = first.setdefault(renamed[key], key)
        repeated = renamed[key].endswith(MAGNITUDE) and np.array_equal(stored[key], stored[other])
        if other != key and not repeated:
            raise UserError(f"{path} holds more than one adapter; save the one that is wanted alone")
    return {key: name for name, key in first.items()}
