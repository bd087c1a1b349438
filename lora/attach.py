"""Walk the named modules, wrap the targets, freeze the rest."""

import numpy as np

from common.errors import UserError
from gpt2_jittor.model.layers import Conv1D, Embedding, Head, Layer, LayerNorm, TiedHead, is_tied
from gpt2_jittor.model.pretrained import GPT2PreTrained
from gpt2_jittor.runtime.backend import jt
from lora.config import CLASSIFIERS, LoraConfig
from lora.embedding import LoraEmbedding
from lora.head import LoraHead
from lora.layers import AdapterLayer, LoraLayer
from lora.linear import LoraLinear
from lora.matching import EMBEDDINGS, PROJECTIONS, is_called
from lora.tokens import TrainedTokens

EMBEDDING, HEAD = "transformer.wte", "lm_head"
KINDS = {Conv1D: LoraLinear, Embedding: LoraEmbedding, Head: LoraHead, TiedHead: LoraHead}


def inject(model: GPT2PreTrained, config: LoraConfig, seed: int = 0) -> GPT2PreTrained:
    """Wraps the layers that `config` targets and freezes everything that it does not train.

    Returns the same model, changed. Raises UserError where a name matches nothing, where a target cannot have LoRA,
    where a rank is larger than the model is wide, where a token is not in the vocabulary, or where LoRA is there
    already.
    """
    _check_plain(model)
    for rank in (config.r, *config.rank_pattern.values()):
        if rank > model.config.n_embd:
            raise UserError(f"r {rank} is larger than the model's width, {model.config.n_embd}: lower it")
    _check_names(model, config)
    attach(model, config, seed)
    return model


def attach(model: GPT2PreTrained, config: LoraConfig, seed: int = 0) -> dict:
    """Does what `inject` does; returns the modules that were replaced, by their paths.

    As PEFT does with an adapter that is read, it leaves names alone that match nothing, where others match.
    """
    _check_plain(model)
    if model.base is not None:
        _ = model.base.fingerprint  # read now, though it is saved later: its files may be gone by then, or others
    targets = _targets(model, config)
    saved = _saved(model, config)
    _check_tokens(model, config)
    embedding, head = model.transformer.wte, getattr(model, HEAD, None)
    originals = {HEAD: head} if isinstance(head, TiedHead) else {}
    originals |= targets | saved
    wrapped = dict(targets)
    if EMBEDDING in saved and is_tied(head, embedding):
        # the head stays with the original embedding, as in PEFT
        model.lm_head = Head.sharing(embedding.weight)
        wrapped = {path: model.lm_head if path == HEAD else module for path, module in targets.items()}
    generator = np.random.default_rng(seed)
    layers = {path: _wrap(module, config, path, generator) for path, module in wrapped.items()}
    layers |= {path: copy_of(module) for path, module in saved.items()}
    if config.trainable_token_indices:
        originals[EMBEDDING] = embedding
        layers[EMBEDDING] = TrainedTokens.from_base(embedding, config.trainable_token_indices)
        if is_tied(head, embedding):
            layers[HEAD] = TiedHead(layers[EMBEDDING])
    for path, layer in layers.items():
        replace(model, path, layer)
    model.adapter_config = config
    mark_trainable(model)
    model._set_training(model.is_training())  # the new modules too
    return originals


def matrix_shapes(model: GPT2PreTrained, config: LoraConfig) -> dict[str, tuple[int, int]]:
    """The matrices that `config` would give a plain model, by their names: A [r, in], B [out, r]. Makes none."""
    shapes = {}
    for path, module in _targets(model, config).items():
        own = KINDS[type(module)].shapes(module, config.for_path(path))
        shapes |= {f"{path}.{name}": shape for name, shape in own.items()}
    return shapes


def _wrap(module: Layer, config: LoraConfig, path: str, generator: np.random.Generator) -> LoraLayer:
    return KINDS[type(module)].from_base(module, config.for_path(path), generator)


def detach(model: GPT2PreTrained, originals: dict) -> None:
    """Puts the modules that `attach` returned back: the plain model again, all of it frozen."""
    for path, module in originals.items():
        replace(model, path, module)
    model.adapter_config, model.adapter_tables = None, ()
    for parameter in model.parameters():
        parameter.stop_grad()
    model._set_training(model.is_training())


def mark_trainable(model: GPT2PreTrained, trained: bool = True) -> None:
    """Freezes every parameter but those of the adapter; those too where `trained` is false."""
    adapter = set(adapter_names(model)) if trained else set()
    for name, parameter in model.named_parameters():
        if name in adapter:
            parameter.start_grad()
        else:
            parameter.stop_grad()


def adapter_names(model: GPT2PreTrained) -> list[str]:
    """The parameters that the adapter trains and stores in its file, in the model's order.

    They are what its layers add, the layers that are saved whole, and the biases that its configuration chooses.
    """
    config = model.adapter_config
    names = set(model.adapter_parameters())
    for path, layer in model.layers().items():
        if config.saves(path):
            names |= {f"{path}.{name}" for name, _ in layer.named_parameters()}
        elif layer.bias is not None and _trains_bias(config, layer):
            names.add(f"{path}.bias")
    return [name for name, _ in model.named_parameters() if name in names]


def _trains_bias(config: LoraConfig, layer: Layer) -> bool:
    return config.bias == "all" or (config.bias == "lora_only" and isinstance(layer, LoraLayer))


def trainable(model: GPT2PreTrained) -> list[tuple]:
    """(name, parameter) of every parameter that is trained."""
    return [(name, value) for name, value in model.named_parameters() if not value.is_stop_grad()]


def size(model: GPT2PreTrained) -> int:
    """How many numbers its trained parameters have."""
    return sum(value.numel() for _, value in trainable(model))


def count(model: GPT2PreTrained) -> tuple[int, int]:
    """How many numbers are trained, without those of trained parameters that stay zero, and how many are frozen."""
    # those of a base in fewer bits are no parameters; a tied head's are the embedding's
    kept = {id(layer.weight): layer.weight.numel() for layer in model.layers().values() if layer.is_frozen}
    frozen = sum(value.numel() for _, value in model.named_parameters() if value.is_stop_grad()) + sum(kept.values())
    return size(model) - sum(layer.held for layer in _adapter_layers(model)), frozen


def merge(model: GPT2PreTrained) -> None:
    """Adds what every adapter layer adds to its base's weight, in float32: the same outputs for a plain model's cost.

    Trained tokens' rows are written over the embedding's. A head and an embedding that were one are two from then on,
    where one of them had LoRA. Raises UserError where the weights have 16 bits: the sum
    would be rounded to them.
    """
    model.check_full("merge the adapter")
    for layer in _adapter_layers(model):
        layer.merge()
    head = getattr(model, HEAD, None)
    if isinstance(head, TiedHead) and isinstance(model.transformer.wte, LoraEmbedding):
        model.lm_head = Head.sharing(head.weight)  # what it was tied to is no layer of the model any more


def unmerge(model: GPT2PreTrained) -> None:
    """Takes that out again: the base's weights, to rounding; tokens' rows exactly. Errors as of `merge`."""
    model.check_full("unmerge the adapter")
    for layer in _adapter_layers(model):
        layer.unmerge()
    wte, head = model.transformer.wte, getattr(model, HEAD, None)
    if isinstance(wte, LoraEmbedding) and type(head) is Head and head.weight is wte.weight:
        model.lm_head = TiedHead(wte.base_layer)


def replace(model: GPT2PreTrained, path: str, module) -> None:
    """Puts `module` at a dotted path."""
    parent_path, _, name = path.rpartition(".")
    parent = model.parameter(parent_path) if parent_path else model
    setattr(parent, name, module)


def copy_of(module):
    """A copy that is trained in place of its original. A tied head's copy is untied from the embedding."""
    if isinstance(module, TiedHead):
        module = Head.sharing(module.weight)
    copy = object.__new__(type(module))
    copy.__dict__.update(module.__dict__)
    for name, value in vars(module).items():
        if isinstance(value, jt.Var):
            setattr(copy, name, value.float32().clone().detach())
    return copy


def is_merged(model: GPT2PreTrained) -> bool:
    """Whether the adapter stands in the weights at present."""
    return any(layer.merged for layer in _adapter_layers(model))


def _adapter_layers(model: GPT2PreTrained) -> list[AdapterLayer]:
    return [layer for layer in model.layers().values() if isinstance(layer, AdapterLayer)]


def _check_plain(model: GPT2PreTrained) -> None:
    if model.adapter_config is not None:
        raise UserError("this model has LoRA already; load the base model again")


def _check_names(model: GPT2PreTrained, config: LoraConfig) -> None:
    """Raises UserError for each name in `config` that matches no layer, or whose layer two names train differently."""
    modules = {path: module for path, module in model.named_modules() if path}
    for name in config.modules_to_save or ():
        absent = not any(is_called(path, [name]) for path in modules)
        if absent and not (config.task_type == "SEQ_CLS" and name in CLASSIFIERS):  # PEFT writes both of these
            raise UserError(f"modules_to_save: nothing in the model is called {name!r}; lm_head, wte, ln_f … are")
    for path, module in modules.items():
        if config.names_target(path):
            if config.saves(path):
                raise UserError(f"modules_to_save: {path} is a LoRA target too; name it once")
            _check_target(path, module, config)
    config.check_targets([path for path, module in modules.items() if type(module) in KINDS])


def _targets(model: GPT2PreTrained, config: LoraConfig) -> dict[str, Layer]:
    named = {path: module for path, module in model.named_modules() if path and config.targets(path)}
    for path, module in named.items():
        _check_target(path, module, config)
    if not named:
        config.check_targets([path for path, _ in model.named_modules()])
        raise UserError("target_modules: modules_to_save names all that it matches; nothing is left for LoRA")
    return named


def _check_target(path: str, module, config: LoraConfig) -> None:
    if type(module) not in KINDS or path == "score":
        others = f"{', '.join((*PROJECTIONS, *EMBEDDINGS))} or {HEAD}"
        raise UserError(f"target_modules matches {path}, which is no projection; use {others}")
    config.check_layer(path)
    if config.trainable_token_indices and isinstance(module, TiedHead):
        raise UserError(f"trainable_token_indices trains rows of what has LoRA, {path}: use one of the two")


def _saved(model: GPT2PreTrained, config: LoraConfig) -> dict[str, Layer]:
    named = {path: module for path, module in model.named_modules() if path and config.saves(path)}
    if config.task_type == "SEQ_CLS" and not any(is_called(path, CLASSIFIERS) for path in named):
        raise UserError("task_type SEQ_CLS: this model has no classifier's head; use GPT2ForSequenceClassification")
    whole = (TiedHead, Head, Embedding, LayerNorm, Conv1D)
    for path, module in named.items():
        if not isinstance(module, whole) or config.targets(path):
            raise UserError(f"modules_to_save: {path} cannot be saved whole; name a layer that is no LoRA target")
        if module.is_frozen:
            raise UserError(f"modules_to_save: {path} is kept in {model.base_precision}: train it in a float32 model")
    return named


def _check_tokens(model: GPT2PreTrained, config: LoraConfig) -> None:
    tokens = config.trainable_token_indices
    if not tokens:
        return
    rows = model.config.vocab_size
    if max(tokens) >= rows:
        raise UserError(
            f"trainable_token_indices holds {max(tokens)}, the model's vocabulary 0 to {rows - 1}; "
            "give it more entries first (resize_token_embeddings)"
        )
    head = getattr(model, "lm_head", None)
    tied = isinstance(head, TiedHead)
    if not tied and head is not None and model.base and model.base.stored.called_tied:
        raise UserError(
            f"trainable_token_indices: {model.base.directory / 'config.json'} ties the head to the embedding, but the "
            "weights hold another head, where PEFT trains both; set tie_word_embeddings to false there to train "
            "here, and merge PEFT's adapters in PEFT first"
        )
    if config.saves(EMBEDDING) or (tied and config.saves("lm_head")):
        raise UserError(
            "trainable_token_indices trains rows of an embedding that modules_to_save trains whole "
            "(wte, or the head tied to it); use one of the two"
        )
