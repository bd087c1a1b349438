"""Which tensors a configuration stands for, and whether a checkpoint's files hold just these.

Nothing of a size that a config.json states is made before its files were found to hold as much. Needs no Jittor.
"""

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from common.files import read_json
from gpt2_jittor.checkpoint import weights
from gpt2_jittor.checkpoint.config import GPT2Config
from gpt2_jittor.checkpoint.generation_config import GenerationConfig

EMBEDDING, HEAD, SCORE = "transformer.wte.weight", "lm_head.weight", "score.weight"
ROWS = 4096  # of an embedding that are compared with the head's at a time


@dataclass(frozen=True)
class StoredModel:
    """A checkpoint whose files are sound. `config` is what they mean, `tensors` maps our names to views of them.

    Beside the body there may be a language model's own head, a classifier's, or both: all that may change a number.
    Its files stay mapped: one that is replaced on the disk is another.
    """

    directory: Path
    config: GPT2Config
    tensors: dict[str, np.ndarray]
    settings: dict[str, Any]  # config.json, as it stands
    files: tuple[tuple[int, ...], ...]  # which files hold the tensors, by what changes where one is another
    called_tied: bool = False  # it ties a head to the embedding that is another tensor in the files

    @functools.cached_property
    def generation(self) -> GenerationConfig:
        """What the folder says of generation. Raises UserError where the file that has it holds no JSON object."""
        return GenerationConfig.from_pretrained(self.directory, self.settings)

    @property
    def classifies(self) -> bool:
        """Whether it was saved as a classifier."""
        return any("Classification" in name for name in self.settings.get("architectures") or ())


def open_model(directory: str | Path) -> StoredModel:
    """Opens a folder in Hugging Face's layout; no tensor is read but for two heads' comparison.

    Where config.json ties the head to the embedding, and the files hold both, what they hold decides, as in
    transformers 5: the head stays the embedding where its numbers are the same, else it is one of its own.
    A classifier whose config.json names no classes has as many as its head's rows.
    Raises UserError where files are missing or damaged, or hold other tensors than the configuration's.
    """
    directory = Path(directory)
    path = directory / "config.json"
    settings = read_json(path)
    config, files = GPT2Config.from_dict(settings, path), weights.identities(directory)
    tensors = weights.open_tensors(directory)
    blocks = len({name.split(".")[2] for name in tensors if name.startswith("transformer.h.")})
    if blocks != config.n_layer:  # before a name of each is made
        raise UserError(
            f"{directory}: weights and config.json disagree; tensors of {blocks} blocks instead of {config.n_layer}"
        )
    if config.tie_word_embeddings and EMBEDDING not in tensors and HEAD in tensors:
        tensors[EMBEDDING] = tensors.pop(HEAD)  # one tensor of two names: some savers keep the first
    weights.check(_expected(config, tensors), weights.shapes_of(tensors), directory)
    if SCORE in tensors and config.labels is None:
        config = dataclasses.replace(config, labels=tuple(f"LABEL_{row}" for row in range(len(tensors[SCORE]))))
    called_tied = False
    if config.tie_word_embeddings and HEAD in tensors:
        if _same_numbers(tensors[HEAD], tensors[EMBEDDING], directory):
            del tensors[HEAD]
        else:
            config, called_tied = dataclasses.replace(config, tie_word_embeddings=False), True
    return StoredModel(directory, config, tensors, settings, files, called_tied)


def body_shapes(config: GPT2Config) -> dict[str, tuple[int, ...]]:
    """The shape of each of a GPT-2's tensors below its head, by its name."""
    width, inner = config.n_embd, config.mlp_size
    block = {
        "ln_1.weight": (width,),
        "ln_1.bias": (width,),
        "attn.c_attn.weight": (width, 3 * width),
        "attn.c_attn.bias": (3 * width,),
        "attn.c_proj.weight": (width, width),
        "attn.c_proj.bias": (width,),
        "ln_2.weight": (width,),
        "ln_2.bias": (width,),
        "mlp.c_fc.weight": (width, inner),
        "mlp.c_fc.bias": (inner,),
        "mlp.c_proj.weight": (inner, width),
        "mlp.c_proj.bias": (width,),
    }
    shapes = {EMBEDDING: (config.vocab_size, width), "transformer.wpe.weight": (config.n_positions, width)}
    for layer in range(config.n_layer):
        shapes |= {f"transformer.h.{layer}.{name}": shape for name, shape in block.items()}
    return shapes | {"transformer.ln_f.weight": (width,), "transformer.ln_f.bias": (width,)}


def _expected(config: GPT2Config, tensors: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """The body's shapes, and those of the heads that are there."""
    shapes = body_shapes(config)
    if HEAD in tensors:
        shapes[HEAD] = (config.vocab_size, config.n_embd)
    if SCORE in tensors:
        rows = tensors[SCORE].shape[:1] if config.labels is None else (len(config.labels),)
        shapes[SCORE] = (*rows, config.n_embd)
    return shapes


def _same_numbers(one: np.ndarray, other: np.ndarray, directory: Path) -> bool:
    """Whether two tensors of the same shape hold the same numbers, whatever their types."""
    places = one.__array_interface__, other.__array_interface__
    if len({(place["data"], place["strides"], place["typestr"]) for place in places}) == 1:
        return True  # torch's files hold a tied tensor once, under two names
    for start in range(0, len(one), ROWS):
        rows = slice(start, start + ROWS)
        parts = weights.to_float32(HEAD, one[rows], directory), weights.to_float32(EMBEDDING, other[rows], directory)
        if not np.array_equal(*parts):
            return False
    return True
