"""Weights and models as files: safetensors whose bytes follow from what is written, and folders for transformers."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from common.files import replacing, write_json, write_text
from gpt2_jittor.checkpoint.config import GPT2Config
from gpt2_jittor.checkpoint.generation_config import COPIED, FILE, IDS
from gpt2_jittor.checkpoint.weights import SAFETENSORS_DTYPES


def write_model(
    directory: str | Path,
    config: GPT2Config,
    tensors: dict[str, np.ndarray],
    dtype: str = "float32",
    architecture: str = "GPT2LMHeadModel",
    generation: dict[str, Any] | None = None,
) -> None:
    """Writes a folder that transformers loads: model.safetensors, config.json, generation_config.json.

    `tensors` goes by our names; `dtype` is float32 or float16. A tied model's `lm_head.weight` is left out.
    `generation`: what generation_config.json is to say, where it is more than the configuration's token ids.
    Raises UserError for a number that float16 cannot hold, ValueError where a tied model's head is another tensor than
    its embedding.
    """
    directory = Path(directory)
    if config.tie_word_embeddings and "lm_head.weight" in tensors:
        tensors = dict(tensors)
        if not np.array_equal(tensors.pop("lm_head.weight"), tensors["transformer.wte.weight"]):
            raise ValueError("lm_head.weight is not the token embedding, to which the configuration ties it")
    for name, array in tensors.items() if dtype == "float16" else ():
        if (largest := np.abs(array).max(initial=0)) > np.finfo(dtype).max:
            raise UserError(f"{name} holds {largest:.3g}, more than {dtype} can: write it in float32")
    arrays = {name: np.ascontiguousarray(array, dtype) for name, array in tensors.items()}
    write_safetensors(directory / "model.safetensors", arrays)
    write_json(directory / "config.json", config.to_dict(architecture) | {"dtype": dtype})
    if generation is None:
        generation = {name: getattr(config, name) for name in IDS if getattr(config, name) is not None}
        generation = {COPIED: True} | generation
    # escaped: what others wrote may hold half of a character
    write_text(directory / FILE, json.dumps(generation, indent=2) + "\n")


def write_safetensors(path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> None:
    """Writes one safetensors file, its bytes a function of what is written: the library shuffles the metadata.

    Raises UserError where that cannot be.
    """
    header: dict[str, dict] = {"__metadata__": {"format": "pt"} | (metadata or {})}
    codes, end = {dtype: code for code, dtype in SAFETENSORS_DTYPES.items()}, 0
    for name, array in sorted(arrays.items()):
        start, end = end, end + array.nbytes
        header[name] = {"dtype": codes[array.dtype], "shape": array.shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in sorted(arrays):
            file.write(np.ascontiguousarray(arrays[name]))
