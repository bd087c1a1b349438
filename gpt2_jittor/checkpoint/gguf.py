"""A GPT-2 as one GGUF file, which llama.cpp reads, and what is built on it. Needs no Jittor.

llama.cpp computes with one kind of GPT-2 alone: a configuration that asks for another is refused by the entry's name.
Its projections are [out, in], Hugging Face's [in, out]; the keys are of PyPI's `gguf`, llama.cpp's own.
"""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType, LlamaFileType

from common.errors import UserError
from common.files import writing_to
from gpt2_jittor.checkpoint.config import GPT2Config
from gpt2_jittor.checkpoint.weights import read_views

ARCHITECTURE = gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.GPT2]
PROJECTIONS = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
# what a file of each type calls itself, and the type of its matrices
TYPES = {
    "f32": (LlamaFileType.ALL_F32, GGMLQuantizationType.F32),
    "f16": (LlamaFileType.MOSTLY_F16, GGMLQuantizationType.F16),
    "q8_0": (LlamaFileType.MOSTLY_Q8_0, GGMLQuantizationType.Q8_0),
}
TANH_GELU = ("gelu_new", "gelu_fast", "gelu_pytorch_tanh")  # three names of one formula, the only one in llama.cpp
POSITIONS = "position_embd.weight"  # and vectors stay float32 in every file, as in llama.cpp's own conversion


def check_config(config: GPT2Config, directory: Path) -> None:
    """Raises UserError, naming every entry, where llama.cpp's GPT-2 would compute something else."""
    problems = []
    if config.activation_function not in TANH_GELU:
        problems.append(f"activation_function {config.activation_function}")
    if not config.scale_attn_weights:
        problems.append("scale_attn_weights false")
    if config.scale_attn_by_inverse_layer_idx:
        problems.append("scale_attn_by_inverse_layer_idx true")
    if problems:
        raise UserError(f"{directory / 'config.json'}: llama.cpp's GPT-2 has no {', '.join(problems)}; use it here")


def write_model(
    path: str | Path,
    config: GPT2Config,
    tensors: dict[str, np.ndarray],
    vocabulary: dict[str, Any],
    dtype: str,
    directory: Path,
) -> None:
    """Writes a language model. `tensors` go by our names, as views of any float type; one is read at a time.

    `vocabulary`: the fields of `gguf_vocabulary`. `dtype`: of TYPES. A head that is the embedding is none of the
    tensors: llama.cpp takes the embedding then. `directory`: where the tensors come from. Errors as of `write`.
    """
    keys = gguf.Keys
    fields = {
        keys.General.TYPE: gguf.GGUFType.MODEL,
        keys.General.NAME: Path(path).stem,
        keys.LLM.CONTEXT_LENGTH: config.n_positions,
        keys.LLM.EMBEDDING_LENGTH: config.n_embd,
        keys.LLM.FEED_FORWARD_LENGTH: config.mlp_size,
        keys.LLM.BLOCK_COUNT: config.n_layer,
        keys.Attention.HEAD_COUNT: config.n_head,
        keys.Attention.LAYERNORM_EPS: float(config.layer_norm_epsilon),
    }
    names = tensor_names(config.n_layer)
    views = {names[name]: view.T if name.endswith(PROJECTIONS) else view for name, view in tensors.items()}
    write(path, fields | vocabulary, views, dtype, directory)


def tensor_names(layers: int) -> dict[str, str]:
    """GGUF's name of each of our tensors, those of a language model of so many blocks."""
    modules = ["transformer.wte", "transformer.wpe", "transformer.ln_f", "lm_head"]
    parts = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
    modules += [f"transformer.h.{layer}.{part}" for layer in range(layers) for part in parts]
    known = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT2, layers)
    ends = (".weight", ".bias")
    return {module + end: known.get_name(module + end, try_suffixes=ends) for module in modules for end in ends}


def write(path: str | Path, fields: dict[str, Any], views: dict[str, np.ndarray], dtype: str, directory: Path) -> None:
    """Writes a file of these fields and tensors, by GGUF's names for both, each tensor as llama.cpp wants it turned.

    Raises UserError where it cannot be written and, naming `directory`, for numbers that are not finite, or too large
    for `dtype`.
    """
    file_type, matrices = TYPES[dtype]
    kinds = {name: _kind(name, view, matrices) for name, view in views.items()}
    with writing_to(path) as temporary:
        writer = gguf.GGUFWriter(temporary, ARCHITECTURE)
        try:
            for key, value in fields.items():
                _add(writer, key.format(arch=ARCHITECTURE), value)
            _add(writer, gguf.Keys.General.FILE_TYPE, int(file_type))
            _add(writer, gguf.Keys.General.QUANTIZATION_VERSION, gguf.GGML_QUANT_VERSION)
            for name, view in views.items():
                block, size = gguf.GGML_QUANT_SIZES[kinds[name]]
                writer.add_tensor_info(name, view.shape, np.float32, view.size // block * size, kinds[name])
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for name, tensor in read_views(views, directory):
                writer.write_tensor_data(_encoded(name, tensor, kinds[name], directory))
        finally:
            writer.close()


def _kind(name: str, view: np.ndarray, matrices: GGMLQuantizationType) -> GGMLQuantizationType:
    """The type of one tensor. Rows that are no whole blocks have 16 bits instead of 8."""
    if view.ndim == 1 or name == POSITIONS:
        return GGMLQuantizationType.F32
    block, _ = gguf.GGML_QUANT_SIZES[matrices]
    return matrices if view.shape[-1] % block == 0 else GGMLQuantizationType.F16


def _encoded(name: str, tensor: np.ndarray, kind: GGMLQuantizationType, directory: Path) -> np.ndarray:
    """The bytes of one tensor."""
    with np.errstate(over="ignore"):
        encoded = gguf.quantize(tensor, kind)
    if kind == GGMLQuantizationType.F16 and not np.isfinite(encoded).all():
        raise UserError(f"{directory}: {name} holds numbers beyond 65,504, the largest of float16; write f32")
    return encoded


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """One field, of the type that llama.cpp reads it as."""
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, list: writer.add_array}
    add.get(type(value), writer.add_string)(key, value)
