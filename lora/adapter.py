"""Adapters in PEFT's own files: what is saved here loads there, and the other way round."""

from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from common.errors import UserError
from common.files import replacing, write_json
from gpt2_jittor.pretrained import GPT2PreTrained
from gpt2_jittor.weights import differences, read_safetensors
from lora.config import LoraConfig
from lora.inject import adapter_config, adapter_names, inject, mark_trainable
from lora.layers import LoraLinear

PREFIX = "base_model.model."
WEIGHTS = "adapter_model.safetensors"


def save_adapter(model: GPT2PreTrained, directory: str | Path) -> None:
    """Writes adapter_model.safetensors (float32) and adapter_config.json.

    Raises UserError where the model has no LoRA or the folder cannot be written.
    """
    config = adapter_config(model)
    if config is None:
        raise UserError("this model has no LoRA to save; inject it first")
    write_adapter(directory, config, adapter_tensors(model))


def adapter_tensors(model: GPT2PreTrained) -> dict[str, np.ndarray]:
    """The adapter's tensors by PEFT's keys."""
    keys = peft_keys(model)
    return {keys[name]: model.parameter(name).numpy() for name in keys}


def write_adapter(directory: str | Path, config: LoraConfig, tensors: dict[str, np.ndarray]) -> None:
    """Writes the two files of an adapter."""
    directory = Path(directory)
    with replacing(directory / WEIGHTS) as temporary:
        safetensors.numpy.save_file(tensors, temporary, metadata={"format": "pt"})
    write_json(directory / "adapter_config.json", config.to_dict())


def load_adapter(model: GPT2PreTrained, directory: str | Path, trained: bool = False) -> LoraConfig:
    """Injects the adapter in `directory` (unless it was injected already) and reads its weights.

    With `trained` its parameters can be trained on; else they are frozen too. Returns its configuration.
    Raises UserError where files are missing or damaged, or where a tensor does not fit this model.
    """
    directory = Path(directory)
    if not (directory / "adapter_config.json").is_file():
        raise UserError(f"{directory} holds no adapter (adapter_config.json); give the folder of a finished run")
    config = LoraConfig.from_pretrained(directory)
    if not (directory / WEIGHTS).is_file():
        raise UserError(f"{directory / WEIGHTS} is missing; save the adapter as safetensors")
    # with bias "all", PEFT stores the biases of modules_to_save again, under names of its own wrapper
    tensors = {
        key: tensor
        for key, tensor in read_safetensors(directory / WEIGHTS).items()
        if ".original_module." not in key and ".modules_to_save." not in key
    }
    _make_room(model, config)
    keys = peft_keys(model)
    expected = {key: tuple(model.parameter(name).shape) for name, key in keys.items()}
    if problems := differences(expected, {key: tensor.shape for key, tensor in tensors.items()}):
        raise UserError(f"{directory}: the adapter does not fit this model; tensors {problems}")
    for name, key in keys.items():
        model.parameter(name).assign(tensors[key])
    mark_trainable(model, trained)
    return config


def _make_room(model: GPT2PreTrained, config: LoraConfig) -> None:
    """Injects `config`, unless the very same is there already, and not merged."""
    present = adapter_config(model)
    if present is None:
        inject(model, config)
        return
    merged = any(getattr(module, "merged", False) for module in model.modules())
    if merged or present.shape() != config.shape():
        raise UserError("this model has another adapter, or a merged one; load the base model again")


def peft_keys(model: GPT2PreTrained) -> dict[str, str]:
    """Our parameter's path → PEFT's key. PEFT moves a wrapped layer's own bias under `base_layer`."""
    wrapped = {path for path, module in model.named_modules() if isinstance(module, LoraLinear)}
    keys = {}
    for name in adapter_names(model):
        path, _, kind = name.rpartition(".")
        keys[name] = PREFIX + (f"{path}.base_layer.{kind}" if path in wrapped else name)
    return keys
