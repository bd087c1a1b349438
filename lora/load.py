"""From a `ModelSource` to a model in Jittor: nothing is opened again, and nothing is settled any more."""

import dataclasses
from typing import Any

from gpt2_jittor.checkpoint.stored import SCORE
from gpt2_jittor.model.classifier import GPT2ForSequenceClassification
from gpt2_jittor.model.lm import GPT2LMHeadModel
from gpt2_jittor.model.pretrained import GPT2PreTrained
from gpt2_jittor.model.quantized import quantize
from lora.adapter import check_matrices, put_adapter
from lora.attach import merge
from lora.source import ModelSource
from lora.streaming import Tensors, can_be_merged, merged


def load_base(source: ModelSource, seed: int = 0, **reading: Any) -> GPT2PreTrained:
    """The base model, with an embedding for each of the source's tokens; `reading`: how it is kept, as `from_stored`
    has it.

    Where the source has labels it is a classifier of them, with a new head, drawn from `seed`, where the base is none.
    Raises UserError where the base has other labels.
    """
    adapter, has_head = source.adapter, SCORE in source.base.tensors
    rows = max(source.config.vocab_size, len(source.tokenizer))
    reading["vocabulary"] = rows if rows > source.base.config.vocab_size else None
    if source.labels or (has_head if adapter is None else adapter.is_classifier):
        model = GPT2ForSequenceClassification.from_stored(source.base, source.labels, seed, **reading)
    else:
        model = GPT2LMHeadModel.from_stored(source.base, **reading)
    ids = {name: getattr(source.config, name) for name in ("eos_token_id", "pad_token_id")}
    model.config = dataclasses.replace(model.config, **ids)  # transformers generates and pools by them
    model.generation = source.generation.values
    return model


def load(source: ModelSource, weights: str = "fp32", precision: str = "fp32") -> GPT2PreTrained:
    """The model, ready for use and frozen: the base with the adapter merged into it in float32; then in `precision`,
    or with its weights in int8 or bf16.

    Such a model is never all float32, unless the adapter changes more than projections. Raises UserError where a tensor
    does not fit.
    """
    adapter = source.adapter
    if adapter is None:
        model = load_base(source, weights=weights)
    elif weights != "fp32" and can_be_merged(adapter):

        def through(empty: GPT2PreTrained, tensors: Tensors) -> Tensors:
            check_matrices(empty, adapter, source.folder)
            return merged(tensors, adapter)

        model = load_base(source, weights=weights, through=through)
    else:
        model = load_base(source)
        # `lora/source.py` has compared the bases, or was not to
        put_adapter(model, adapter, source.folder, ignore_base=True)
        merge(model)
        if weights != "fp32":
            quantize(model, weights)
    return model.freeze().to_precision(precision)
