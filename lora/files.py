"""An adapter's two files, PEFT's own, and what they hold. Nothing here needs Jittor."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.files import write_json
from gpt2_jittor.fingerprint import Base
from gpt2_jittor.outline import SCORE, StoredModel
from gpt2_jittor.weights import read_metadata, read_safetensors, write_safetensors
from lora.config import LoraConfig

PREFIX = "base_model.model."
WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
BASE = "base_fingerprint"  # in the weights' metadata, which PEFT leaves alone
ROWS = "transformer.wte.token_adapter.trainable_tokens_delta"

# with bias "all", PEFT stores the biases of modules_to_save again, under names of its own wrapper: the one that is
# trained, and the one that stood there before and that nothing uses any more
TRAINED, REPLACED = ".modules_to_save.", ".original_module."
TIED_ROWS = f"{PREFIX}lm_head.token_adapter.trainable_tokens_delta"
EMBEDDING = re.compile(r"(transformer\.wte|lm_head)(\.token_adapter)?(\.base_layer)?\.weight")


@dataclass
class Adapter:
    """What an adapter's folder holds: its settings, its float32 tensors by PEFT's keys, and whole embeddings.

    `embeddings`, by our names: PEFT adds those of a model whose vocabulary was resized.
    """

    config: LoraConfig
    tensors: dict[str, np.ndarray]
    embeddings: dict[str, np.ndarray] = field(default_factory=dict)
    base: str | None = None  # the fingerprint of the model that it was trained on, where it says

    @property
    def is_classifier(self) -> bool:
        """Whether it was trained under a classifier's head, which its file then holds."""
        return self.config.task_type == "SEQ_CLS" or PREFIX + SCORE in self.tensors

    @property
    def rows_needed(self) -> int:
        """The vocabulary's entries that this adapter speaks of: those of its embedding, or up to its last token."""
        name = "transformer.wte.weight"
        whole = self.embeddings.get(name, self.tensors.get(PREFIX + name))  # resized, or named in modules_to_save
        if whole is not None:
            return len(whole)
        return max(self.config.trainable_token_indices or (-1,)) + 1


def read_adapter(directory: str | Path) -> Adapter:
    """Reads a folder that PEFT or `save_adapter` wrote. Raises UserError where files are missing or damaged."""
    directory = Path(directory)
    if not (directory / SETTINGS).is_file():
        raise UserError(f"{directory} holds no adapter ({SETTINGS}); give the folder of a finished run")
    config = LoraConfig.from_pretrained(directory)
    if not (directory / WEIGHTS).is_file():
        raise UserError(f"{directory / WEIGHTS} is missing; save the adapter as safetensors")
    adapter = Adapter(config, {}, base=read_metadata(directory / WEIGHTS).get(BASE))
    stored = read_safetensors(directory / WEIGHTS)
    for key, tensor in stored.items():
        found = EMBEDDING.fullmatch(key.removeprefix(PREFIX))
        if found and not config.saves(found[1]):
            adapter.embeddings[f"{found[1]}.weight"] = tensor
        elif TRAINED in key and np.array_equal(tensor, stored.get(key.replace(TRAINED, "."))):
            continue
        elif REPLACED not in key:
            adapter.tensors[key] = tensor
    tied = adapter.tensors.get(TIED_ROWS)
    if tied is not None and np.array_equal(tied, adapter.tensors.get(PREFIX + ROWS)):
        del adapter.tensors[TIED_ROWS]  # PEFT writes a tied head's rows again
    return adapter


def check_base(source: str | Path, adapter: Adapter, base: Base | StoredModel | None, ignore: bool = False) -> None:
    """Raises UserError where the adapter was trained on another model than `base`, unless that is to be ignored.

    Which model either was may be unknown: adapters from elsewhere do not tell, nor do models that were not read.
    """
    if adapter.base is None or base is None or ignore:
        return
    base = Base.of(base) if isinstance(base, StoredModel) else base
    if difference := base.difference(adapter.base, adapter.is_classifier):
        raise UserError(
            f"{source} was trained on another base than {base.directory}: {difference}; "
            "give its own (--model), or go on with --ignore-base"
        )


def write_adapter(
    directory: str | Path, config: LoraConfig, tensors: dict[str, np.ndarray], base: str | None = None
) -> None:
    """Writes the two files of an adapter; `base` is the fingerprint of the model that it belongs to."""
    directory = Path(directory)
    write_safetensors(directory / WEIGHTS, tensors, {BASE: base} if base else None)
    write_json(directory / SETTINGS, config.to_dict())
