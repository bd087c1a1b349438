"""An adapter merged into a base's tensors while they are read, one at a time: the model never exists in float32."""

from collections.abc import Iterable, Iterator

import numpy as np

from gpt2_jittor.model.layers import Conv1D
from gpt2_jittor.runtime.backend import jt
from lora.files import Adapter
from lora.keys import PREFIX, A, B, layer_of
from lora.linear import LoraLinear
from lora.problems import changes_base

Tensors = Iterable[tuple[str, np.ndarray]]


def can_be_merged(adapter: Adapter) -> bool:
    """Whether it is matrices beside projections and nothing else, so that each weight's own are all that changes it."""
    config = adapter.config
    more = (config.bias != "none", config.modules_to_save, config.trainable_token_indices, config.use_dora, config.qkv)
    return (
        not (any(more) or adapter.embeddings or changes_base(config.init_lora_weights))
        and all(key.endswith((A, B)) for key in adapter.tensors)
        and all((layer_of(key) or "").startswith("transformer.h.") for key in adapter.tensors)
    )


def merged(tensors: Tensors, adapter: Adapter) -> Iterator[tuple[str, np.ndarray]]:
    """The same tensors, float32 by their names, with what the adapter adds; its matrices must fit."""
    for name, array in tensors:
        path = name.removesuffix(".weight")
        yield name, _merged(array, path, adapter) if f"{PREFIX}{path}{A}" in adapter.tensors else array
        del array  # before the next one is read


def _merged(weight: np.ndarray, path: str, adapter: Adapter) -> np.ndarray:
    base = Conv1D.sharing(jt.array(weight), jt.zeros(weight.shape[1]))
    layer = LoraLinear.from_base(base, adapter.config.for_path(path), np.random.default_rng(0))
    for name, value in layer.adapter_parameters().items():
        value.assign(adapter.tensors[f"{PREFIX}{path}.{name}"])
    return layer.merged_weight().numpy()
