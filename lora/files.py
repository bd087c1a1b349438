"""An adapter's two files, PEFT's own, and what they hold. Nothing here needs Jittor."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from common.errors import ParameterError, UserError
from common.files import write_json
from gpt2_jittor.checkpoint.fingerprint import Base
from gpt2_jittor.checkpoint.stored import EMBEDDING, HEAD, SCORE, StoredModel
from gpt2_jittor.checkpoint.weights import in_float32, open_file
from gpt2_jittor.checkpoint.write import write_safetensors
from lora.config import LoraConfig
from lora.keys import (
    PREFIX,
    REPLACED,
    ROWS,
    TIED_ROWS,
    TRAINED,
    embedding_of,
    is_a,
    is_matrix,
    layer_of,
    other_of,
    todays_keys,
)
from lora.problems import LARGEST_FLOAT

WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
ARCHIVE = "adapter_model.bin"  # what PEFT wrote by default until 0.6, and still reads where there is no other
BASE = "base_fingerprint"  # in the weights' metadata, which PEFT leaves alone


@dataclass
class Adapter:
    """What an adapter's folder holds: its settings, its float32 tensors by PEFT's keys, and whole embeddings.

    `embeddings`, by our names, may be the base's as they were: `lora/whole.py`.
    """

    config: LoraConfig
    tensors: dict[str, np.ndarray]
    embeddings: dict[str, np.ndarray] = field(default_factory=dict)
    base: str | None = None  # the fingerprint of the model that it was trained on, where it says
    tied_rows: bool = False  # its trained tokens are its head's columns, too

    @property
    def is_classifier(self) -> bool:
        """Whether it was trained under a classifier's head, which its file then holds."""
        return self.config.task_type == "SEQ_CLS" or PREFIX + SCORE in self.tensors

    @property
    def stored(self) -> dict[str, np.ndarray]:
        """All that its file holds, by PEFT's keys."""
        return self.tensors | {PREFIX + name: table for name, table in self.embeddings.items()}

    @property
    def rows_needed(self) -> int:
        """The vocabulary's entries that this adapter speaks of: those of its embedding, or up to its last token."""
        # of a resized vocabulary, or named in modules_to_save
        tables = (self.embeddings.get(EMBEDDING), self.embeddings.get(HEAD), self.tensors.get(PREFIX + EMBEDDING))
        if sizes := [len(table) for table in tables if table is not None]:
            return sizes[0]
        return max(self.config.trainable_token_indices or (-1,)) + 1


def read_adapter(directory: str | Path) -> Adapter:
    """Reads a folder that PEFT or `save_adapter` wrote. Raises UserError where files are missing or damaged."""
    directory = Path(directory)
    if not (directory / SETTINGS).is_file():
        raise UserError(f"{directory} holds no adapter ({SETTINGS}); give the folder of a finished run")
    config = LoraConfig.from_pretrained(directory)
    path = weights_of(directory)
    stored, metadata = open_file(path)
    keys = todays_keys(stored, path)
    views = {name: stored[key] for key, name in keys.items()}
    _check_matrices(views, config, path)
    if config.bias == "lora_only" and not any(key.endswith(".base_layer.bias") for key in views):
        # PEFT 0.6 to 0.13 forgot to save them, and reads such a file as an adapter without them
        config = dataclasses.replace(config, bias="none")
    adapter = Adapter(config, {}, base=metadata.get(BASE))
    stored = in_float32(views, path)
    for key, tensor in stored.items():
        embedding = embedding_of(key)
        if embedding and not config.saves(embedding):
            adapter.embeddings[f"{embedding}.weight"] = tensor
        elif TRAINED in key and np.array_equal(tensor, stored.get(key.replace(TRAINED, "."))):
            continue
        elif REPLACED not in key:
            adapter.tensors[key] = tensor
    _check_start(adapter, path)
    tied = adapter.tensors.get(TIED_ROWS)
    if tied is not None and np.array_equal(tied, adapter.tensors.get(PREFIX + ROWS)):
        del adapter.tensors[TIED_ROWS]  # PEFT writes a tied head's rows again
        adapter.tied_rows = True
    if config.trainable_token_indices is None and not adapter.tensors.get(PREFIX + ROWS, np.ones(1)).size:
        del adapter.tensors[PREFIX + ROWS]  # and those of an empty list
    _check_range(adapter, path)
    return adapter


def weights_of(directory: str | Path) -> Path:
    """The file of an adapter's tensors: safetensors before PyTorch's format. Raises UserError where there is none."""
    for name in (WEIGHTS, ARCHIVE):
        if (Path(directory) / name).is_file():
            return Path(directory) / name
    raise UserError(f"{Path(directory) / WEIGHTS} is missing, and {ARCHIVE} too; get the adapter again")


def check_base(source: str | Path, adapter: Adapter, base: Base | StoredModel | None, ignore: bool = False) -> None:
    """Raises UserError where the adapter was trained on another model than `base`, unless that is to be ignored.

    Which model either was may be unknown: adapters from elsewhere do not tell, nor do models that were not read.
    """
    if adapter.base is None or base is None or ignore:
        return
    base = Base(base) if isinstance(base, StoredModel) else base
    if difference := base.difference(adapter.base, adapter.is_classifier):
        raise ParameterError(
            "{source} was trained on another base than {base}: {difference}; "
            "give its own ({model}), or go on with {ignore_base}",
            source=source,
            base=base.directory,
            difference=difference,
        )


def write_adapter(
    directory: str | Path, config: LoraConfig, tensors: dict[str, np.ndarray], base: str | None = None
) -> None:
    """Writes the two files of an adapter; `base` is the fingerprint of the model that it belongs to."""
    directory = Path(directory)
    write_safetensors(directory / WEIGHTS, tensors, {BASE: base} if base else None)
    write_json(directory / SETTINGS, config.to_dict())


def _check_matrices(views: dict[str, np.ndarray], config: LoraConfig, path: Path) -> None:
    """Raises UserError where the stored matrices are not those that `config` speaks of: before any is made of r."""
    for key, view in views.items():
        if not is_matrix(key):
            continue
        if view.ndim != 2 or other_of(key) not in views:
            raise UserError(f"{path}: {key} {list(view.shape)} is not one of two matrices; get the adapter again")
        rank, expected = view.shape[0 if is_a(key) else 1], config.for_path(layer_of(key)).rank
        if rank != expected:
            raise UserError(f"{path}: {key} has rank {rank}, {SETTINGS} says r {expected}; get the adapter again")
    if not any(map(is_a, views)):
        raise UserError(f"{path} holds no matrices of LoRA; get the adapter again")


def _check_start(adapter: Adapter, path: Path) -> None:
    """Raises UserError for OLoRA of PEFT's own, which takes GPT-2's weights for their transposes (0.21)."""
    if adapter.config.init_lora_weights == "olora" and adapter.base is None:
        raise UserError(
            f"{path.parent}: PEFT's olora takes another part of GPT-2's weights than ours: merge it in PEFT"
        )


def _check_range(adapter: Adapter, path: Path) -> None:
    """Raises UserError where α, A and B are so large that a change of the weights might not be a number."""
    for key, a in adapter.tensors.items():
        if is_a(key) and a.size:
            layer = layer_of(key)
            b, given = adapter.tensors[other_of(key)], adapter.config.for_path(layer)
            largest = given.scaling * given.rank * float(np.abs(a).max()) * float(np.abs(b).max())
            if largest > LARGEST_FLOAT:
                alpha = f"{given.alpha:g}"
                raise UserError(f"{path}: lora_alpha {alpha} times {layer}'s matrices is beyond float32; get it again")
