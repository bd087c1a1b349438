"""Trained tokens where the head is not what PEFT took it for: refused, before a number is wrong."""

import numpy as np
import safetensors.numpy
from adapters import assert_refused
from references import LOGITS, our_logits, torch_logits
from trained_tokens import ROWS, TOKENS, peft_model, plain_ours, tied_and_untied

import lora
import lora.files


def assert_not_loaded(base, adapter, ids, *words) -> None:
    """Neither way of loading takes the adapter, and both leave the model as it was."""
    model, adapters = plain_ours(base), lora.Adapters(plain_ours(base))
    before = our_logits(model, ids)
    for load in (lambda: lora.load_adapter(model, adapter), lambda: adapters.load(adapter, "a")):
        assert_refused(load, *words)
    for left in (model, adapters.model):
        np.testing.assert_array_equal(our_logits(left, ids), before)


def test_tokens_are_refused_where_the_head_is_tied_by_the_configuration_alone(base, seed, ids, tmp_path):
    """PEFT goes by the configuration: the rows become the columns of a head that they have nothing to do with."""
    tensors = safetensors.numpy.load_file(base / "model.safetensors")
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"] * 2
    safetensors.numpy.save_file(tensors, base / "model.safetensors", {"format": "pt"})
    peft_model(base, seed, TOKENS).save_pretrained(tmp_path / "adapter")
    words = "ties the head", "hold another head", "tie_word_embeddings", "merge"
    assert_not_loaded(base, tmp_path / "adapter", ids, *words)
    assert_refused(lambda: lora.inject(plain_ours(base), lora.LoraConfig(trainable_token_indices=TOKENS)), *words)


@tied_and_untied
def test_rows_that_the_file_gives_the_head_too_are_refused_by_another_head(base, seed, ids, tmp_path):
    reference = peft_model(base, seed, TOKENS)
    reference.save_pretrained(tmp_path / "adapter")
    file = tmp_path / "adapter/adapter_model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    tensors[lora.files.TIED_ROWS] = tensors[lora.files.PREFIX + ROWS]
    safetensors.numpy.save_file(tensors, file, {"format": "pt"})
    model = plain_ours(base)
    if model.config.tie_word_embeddings:
        lora.load_adapter(model, tmp_path / "adapter")
        np.testing.assert_allclose(our_logits(model, ids), torch_logits(reference, ids), rtol=0, atol=LOGITS)
    else:
        assert_not_loaded(base, tmp_path / "adapter", ids, "its head's too", "a head of its own", "merge it")
