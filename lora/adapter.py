"""Adapters in PEFT's own files: what is saved here loads there, and the other way round."""

from pathlib import Path

import numpy as np

from common.errors import UserError
from gpt2_jittor.checkpoint.stored import EMBEDDING, HEAD
from gpt2_jittor.checkpoint.weights import differences
from gpt2_jittor.model.layers import TiedHead
from gpt2_jittor.model.pretrained import GPT2PreTrained
from lora.attach import adapter_names, attach, detach, is_merged, mark_trainable, matrix_shapes
from lora.config import LoraConfig
from lora.files import Adapter, check_base, read_adapter, write_adapter
from lora.keys import B_BIAS, PREFIX, B, is_matrix
from lora.layers import LoraLayer
from lora.linear import LoraLinear
from lora.whole import tables_of, with_own_tables


def save_adapter(model: GPT2PreTrained, directory: str | Path) -> None:
    """Writes adapter_model.safetensors (float32) and adapter_config.json.

    Raises UserError where the model has no LoRA, where a layer of it that is saved whole has 16 bits, where a bias of B
    is merged, or where the folder cannot be written.
    """
    config = model.adapter_config
    if config is None:
        raise UserError("this model has no LoRA to save; inject it first")
    model.check_full("save the adapter", adapter_names(model))
    if config.lora_bias and is_merged(model):
        raise UserError("the base's biases hold the adapter's now: unmerge it before it is saved")
    write_adapter(directory, config, adapter_tensors(model), model.base and model.base.fingerprint)


def adapter_tensors(model: GPT2PreTrained) -> dict[str, np.ndarray]:
    """The adapter's tensors by PEFT's keys."""
    places = model.places()
    names = [*adapter_names(model), *model.adapter_tables]
    return {PREFIX + places[name]: model.parameter(name).numpy() for name in names}


def load_adapter(
    model: GPT2PreTrained, directory: str | Path, trained: bool = False, ignore_base: bool = False
) -> LoraConfig:
    """Injects the adapter in `directory` (unless it was injected already) and reads its weights.

    With `trained` its parameters can be trained on; else they are frozen too. Returns its configuration.
    Raises UserError where files are missing or damaged, where it was trained on another base, unless `ignore_base`
    says that this does not matter, and where a tensor does not fit this one.
    """
    adapter = read_adapter(directory)
    put_adapter(model, adapter, directory, trained, ignore_base)
    return adapter.config


def put_adapter(
    model: GPT2PreTrained, adapter: Adapter, source: str | Path, trained: bool = False, ignore_base: bool = False
) -> None:
    """What `load_adapter` does with an adapter that was read from `source`."""
    adapter = fitting(model, adapter, source)
    originals = _attach_unless_there(model, adapter, source)
    try:
        check_tensors(model, adapter, source)
        _check_parts(model, adapter, source)
        check_base(source, adapter, model.base, ignore_base)
    except UserError:
        if originals is not None:
            detach(model, originals)  # what was refused leaves the model as it was
        raise
    assign(model, adapter)
    mark_trainable(model, trained)


def fitting(model: GPT2PreTrained, adapter: Adapter, source: str | Path) -> Adapter:
    """The adapter with those whole embeddings alone that this model lacks.

    Raises UserError where the model cannot take any, or these, and where the adapter's tokens are not the model's.
    """
    if model.quantized:
        raise UserError(
            f"the weights have become {model.quantized}, which is for use only: load the adapter before that"
        )
    if adapter.embeddings:
        adapter = with_own_tables(adapter, *_tables(model))
    if adapter.embeddings and model.base_precision != "fp32":
        raise UserError(
            f"{source} brings its own embeddings, the model's are kept in {model.base_precision}: load it in float32"
        )
    _check_vocabulary(model, adapter, source)
    return adapter


def _tables(model: GPT2PreTrained) -> tuple[dict[str, np.ndarray], bool]:
    if model.base_precision != "fp32":
        return tables_of(model.base.stored)
    names = {EMBEDDING, HEAD} & {name for name, _ in model.named_parameters()}
    tied = isinstance(getattr(model, "lm_head", None), TiedHead)
    return {name: model.parameter(name).numpy() for name in names}, tied


def _check_vocabulary(model: GPT2PreTrained, adapter: Adapter, source: str | Path) -> None:
    """Raises UserError where the adapter's tokens, or the embeddings stored with it, are not this model's."""
    rows, needed = model.config.vocab_size, adapter.rows_needed
    if needed > rows or (adapter.embeddings and needed != rows):
        raise UserError(
            f"{source}: the adapter's vocabulary has {needed} entries, the model's {rows}; "
            f"give the model as many first (resize_token_embeddings)"
        )
    head = getattr(model, "lm_head", None)
    # PEFT goes by the configuration, which may call a model tied whose file holds another head
    if adapter.tied_rows and head is not None and not isinstance(head, TiedHead):
        raise UserError(
            f"{source}: the adapter's trained tokens are its head's too, and this model has a head of its own; "
            "merge it in PEFT first"
        )
    # where the embedding itself was trained, PEFT has taken it apart from the head
    tied = isinstance(head, TiedHead) and not adapter.config.saves("transformer.wte")
    stored = adapter.embeddings.get("lm_head.weight")
    if tied and stored is not None and not np.array_equal(stored, adapter.embeddings.get(EMBEDDING)):
        raise UserError(f"{source}: the adapter's model has a head of its own, this one's is its token embedding")


def check_matrices(model: GPT2PreTrained, adapter: Adapter, source: str | Path) -> None:
    """Raises UserError where a plain model would get other matrices than the adapter's file holds: none is made yet."""
    expected = {f"{PREFIX}{name}": shape for name, shape in matrix_shapes(model, adapter.config).items()}
    found = {key: tensor.shape for key, tensor in adapter.tensors.items() if is_matrix(key) or key.endswith(B_BIAS)}
    _refuse(source, differences(expected, found))


def check_tensors(model: GPT2PreTrained, adapter: Adapter, source: str | Path) -> None:
    """Raises UserError where the adapter's tensors are not those that were injected."""
    keys = {key: name for name, key in peft_keys(model).items()} | {
        f"{PREFIX}{name}": name for name in embeddings_of(model, adapter)
    }
    expected = {key: tuple(model.parameter(name).shape) for key, name in keys.items()}
    found = {key: tensor.shape for key, tensor in adapter.tensors.items()}
    found |= {f"{PREFIX}{name}": tensor.shape for name, tensor in embeddings_of(model, adapter).items()}
    _refuse(source, differences(expected, found))


def _check_parts(model: GPT2PreTrained, adapter: Adapter, source: str | Path) -> None:
    """Raises UserError where the model trains parts of c_attn, and the adapter is of others, too."""
    for path, layer in model.layers().items():
        if isinstance(layer, LoraLinear) and not layer.has_place_for(adapter.tensors[f"{PREFIX}{path}{B}"]):
            raise UserError(f"{source}: the adapter changes more of {path} than the parts that this model trains")


def assign(model: GPT2PreTrained, adapter: Adapter) -> None:
    """Writes the adapter's values into the injected parameters, and its embeddings into the model's."""
    for name, key in peft_keys(model).items():
        model.parameter(name).assign(adapter.tensors[key])
    tables = embeddings_of(model, adapter)
    for name, tensor in tables.items():
        model.parameter(name).assign(tensor)
    model.adapter_tables = tuple(tables)
    for layer in model.layers().values() if tables else ():
        if isinstance(layer, LoraLayer) and layer.has_magnitude:
            layer.take_squares()  # of what it stands beside now


def embeddings_of(model: GPT2PreTrained, adapter: Adapter) -> dict[str, np.ndarray]:
    """The whole embeddings stored with the adapter that are parameters here, as a tied head's is not."""
    names = {name for name, _ in model.named_parameters()}
    return {name: tensor for name, tensor in adapter.embeddings.items() if name in names}


def peft_keys(model: GPT2PreTrained) -> dict[str, str]:
    """PEFT's key of each parameter of the adapter by its name: PEFT's keys are places too, `base_layer` included."""
    places = model.places()
    return {name: PREFIX + places[name] for name in adapter_names(model)}


def _refuse(source: str | Path, problems: str) -> None:
    if problems:
        raise UserError(f"{source}: the adapter does not fit this model; tensors {problems}")


def _attach_unless_there(model: GPT2PreTrained, adapter: Adapter, source: str | Path) -> dict | None:
    """Injects the adapter's configuration; returns the modules that were replaced.

    None, and nothing is done, where the very same is there already, and not merged.
    """
    present = model.adapter_config
    if present is None:
        try:
            check_matrices(model, adapter, source)
            return attach(model, adapter.config)
        except UserError as error:
            raise error if str(source) in str(error) else UserError(f"{source}: {error}") from None
    if is_merged(model) or present.shape() != adapter.config.shape():
        raise UserError("this model has another adapter, or a merged one; load the base model again")
    return None
