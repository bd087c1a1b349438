"""A LoRA adapter alone as a GGUF file, which llama.cpp adds to its base's (`--lora`). Needs no Jittor.

Such a file holds one alpha and the pairs A [r, in], B [out, r] of projections, PEFT's orientation; llama.cpp adds
alpha / r · B A x. Another scaling (rsLoRA, alphas by name) goes into B. What it cannot say is refused by name.
"""

import dataclasses
from pathlib import Path

import gguf

from common.errors import ParameterError
from gpt2_jittor.checkpoint.gguf import check_config, tensor_names, write
from gpt2_jittor.checkpoint.tokenizer import load_tokenizer
from lora.convert import to_plain
from lora.files import Adapter
from lora.keys import is_a, layer_of, other_of
from lora.matching import PROJECTIONS, is_called
from lora.problems import changes_base
from lora.source import ModelSource, has_tokenizer

DTYPES = ("f32", "f16")  # a row of B has r numbers, fewer than a block of q8_0

UNSAID = ("use_dora", "lora_bias", "modules_to_save", "trainable_token_indices")


def plan(source: ModelSource) -> ModelSource:
    """What is to be written: PiSSA and OLoRA as plain adapters. Raises UserError for what a GGUF adapter cannot say."""
    check_config(source.config, source.directory)
    if found := _unsaid(source):
        raise ParameterError(
            "{0}: a GGUF adapter holds A and B of projections alone, not {1}; leave out {adapter_only}, to merge it",
            *(source.folder, ", ".join(found)),
        )
    if not changes_base(source.adapter.config.init_lora_weights):
        return source
    return dataclasses.replace(source, adapter=to_plain(source.adapter, source.directory))


def write_adapter(source: ModelSource, path: str | Path, dtype: str = "f32") -> None:
    """Writes what was planned. Raises UserError where the file cannot be written."""
    adapter, names, tensors = source.adapter, tensor_names(source.base.config.n_layer), {}
    alpha = adapter.config.lora_alpha
    for key, a in adapter.tensors.items():
        if not is_a(key):
            continue
        layer, b = layer_of(key), adapter.tensors[other_of(key)]
        settings = adapter.config.for_path(layer)
        name = names[f"{layer}.weight"]
        tensors[f"{name}.lora_a"] = a
        tensors[f"{name}.lora_b"] = b * (settings.scaling * len(a) / alpha)  # 1 where the scaling is alpha / r
    fields = {
        gguf.Keys.General.TYPE: gguf.GGUFType.ADAPTER,
        gguf.Keys.General.NAME: Path(path).stem,
        gguf.Keys.Adapter.TYPE: "lora",
        gguf.Keys.Adapter.LORA_ALPHA: float(alpha),
    }
    write(path, fields, tensors, dtype, source.folder)


def _unsaid(source: ModelSource) -> list[str]:
    """What an adapter has that such a file has no place for, by PEFT's names where there is one."""
    adapter: Adapter = source.adapter
    config = adapter.config
    found = [name for name in UNSAID if getattr(config, name)]
    if config.bias != "none":
        found.append(f"bias {config.bias}")
    matrices = [layer_of(key) for key in adapter.tensors if is_a(key)]
    found += [f"LoRA on {layer}" for layer in matrices if not is_called(layer, PROJECTIONS)]
    if adapter.embeddings or source.config.vocab_size > source.base.config.vocab_size or _adds_tokens(source):
        found.append("added tokens")
    return found


def _adds_tokens(source: ModelSource) -> bool:
    """Whether the adapter's tokenizer has tokens that its base's has not, and so the base's GGUF file."""
    if not has_tokenizer(source.folder):
        return False
    return source.tokenizer.get_vocab() != load_tokenizer(source.directory).get_vocab()
