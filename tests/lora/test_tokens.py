"""Trained tokens (PEFT's trainable_token_indices): some rows of the token embedding, and of the head tied to it."""

import json
import warnings

import numpy as np
import peft
import pytest
import safetensors.numpy
import tiny
import torch
import transformers
from adapters import assert_refused, edit, our_name
from references import GRADIENT, LOGITS, our_logits, torch_logits
from trained_tokens import ROWS, TOKENS, our_model, peft_model, plain_ours, plain_torch, tied_and_untied

import lora
import lora.files
from datasets.encode import IGNORED
from gpt2_jittor import GPT2ForSequenceClassification
from gpt2_jittor.runtime.backend import jt

MORE = [301, 302, 7]  # two of them in a vocabulary of 303
fields = pytest.mark.parametrize(
    "field", [TOKENS, {"wte": TOKENS}, {"transformer.wte": TOKENS}], ids=["list", "name", "path"]
)


@pytest.fixture
def batch(rng):
    """Ids and labels [rows, time], about half of them trained tokens."""
    ids = rng.integers(0, 301, (3, 17))
    ids = np.where(rng.random(ids.shape) < 0.5, rng.choice(TOKENS, ids.shape), ids)
    return ids, np.where(rng.random(ids.shape) < 0.8, ids, IGNORED)


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=LOGITS)


@tied_and_untied
def test_only_the_rows_and_the_factors_are_trained_as_in_peft(base, seed, rng):
    reference, model = peft_model(base, seed, TOKENS), our_model(base, rng)
    trained, total = reference.get_nb_trainable_parameters()
    assert lora.count(model) == (trained, total - trained)
    assert dict(lora.trainable(model))[ROWS].shape == [len(TOKENS), tiny.SIZES["n_embd"]]


@tied_and_untied
def test_fresh_rows_change_no_logit(base, batch):
    model = plain_ours(base)
    before = our_logits(model, batch[0])
    lora.inject(model, lora.LoraConfig(trainable_token_indices=TOKENS))
    assert_close(our_logits(model, batch[0]), before)


@tied_and_untied
@fields
def test_an_adapter_from_peft_gives_pefts_logits(base, seed, batch, tmp_path, field):
    reference = peft_model(base, seed, field)
    reference.save_pretrained(tmp_path / "adapter")
    model = plain_ours(base)
    assert lora.load_adapter(model, tmp_path / "adapter").trainable_token_indices == TOKENS
    assert_close(our_logits(model, batch[0]), torch_logits(reference, batch[0]))


@tied_and_untied
def test_our_adapter_gives_our_logits_in_peft(base, rng, batch, tmp_path):
    model = our_model(base, rng)
    lora.save_adapter(model, tmp_path / "adapter")
    assert ROWS in str(safetensors.numpy.load_file(tmp_path / "adapter/adapter_model.safetensors").keys())
    reference = peft.PeftModel.from_pretrained(plain_torch(base), tmp_path / "adapter")
    assert_close(our_logits(model, batch[0]), torch_logits(reference, batch[0]))
    assert np.abs(our_logits(model, batch[0]) - our_logits(plain_ours(base), batch[0])).max() > 100 * LOGITS


@tied_and_untied
def test_each_gradient_is_pefts(base, seed, batch):
    reference, model = peft_model(base, seed, TOKENS), plain_ours(base)
    lora.inject(model, lora.LoraConfig(r=3, target_modules=["c_attn"], trainable_token_indices=TOKENS))
    ids, labels = batch
    ours = {our_name(n): p for n, p in reference.named_parameters()}
    ours = {name: parameter for name, parameter in ours.items() if parameter.requires_grad}
    for name, parameter in ours.items():
        model.parameter(name).assign(parameter.detach().numpy())
    reference(torch.tensor(ids), labels=torch.tensor(labels)).loss.backward()
    names, parameters = zip(*lora.trainable(model), strict=True)
    gradients = jt.grad(model.loss(ids, labels), list(parameters))
    assert set(names) == ours.keys()
    for name, gradient in zip(names, gradients, strict=True):
        expected = ours[name].grad.numpy()
        assert np.linalg.norm(gradient.numpy() - expected) <= GRADIENT * np.linalg.norm(expected), name


@tied_and_untied
def test_pefts_file_of_a_resized_model_brings_its_embeddings(base, seed, rng, tmp_path):
    ids = rng.integers(0, 303, (2, 11))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT says that it saves whole embeddings
        reference = peft_model(base, seed, MORE, rows=303)
        reference.save_pretrained(tmp_path / "adapter")
    stored = safetensors.numpy.load_file(tmp_path / "adapter/adapter_model.safetensors")
    assert "base_model.model.transformer.wte.token_adapter.base_layer.weight" in stored
    assert_refused(lambda: lora.load_adapter(plain_ours(base), tmp_path / "adapter"), "303 entries", "301", "resize")
    model = plain_ours(base, 303)
    lora.load_adapter(model, tmp_path / "adapter", trained=True)
    assert_close(our_logits(model, ids), torch_logits(reference, ids))
    assert {name for name, _ in lora.trainable(model) if ".lora_" not in name} == {ROWS}


@tied_and_untied
@pytest.mark.parametrize("saved", [None, ["ln_f"], ["lm_head"], ["wte"]], ids=str)
def test_pefts_file_of_a_resized_model_without_trained_tokens_is_read_too(base, seed, rng, tmp_path, saved):
    config = peft.LoraConfig(fan_in_fan_out=True, r=3, init_lora_weights=False, modules_to_save=saved)
    reference = peft.get_peft_model(plain_torch(base, 303), config)
    reference.save_pretrained(tmp_path / "adapter")
    assert lora.files.read_adapter(tmp_path / "adapter").rows_needed == 303
    model, ids = plain_ours(base, 303), rng.integers(0, 303, (2, 11))
    before = our_logits(model, ids)
    adapters = lora.Adapters(model)
    adapters.load(tmp_path / "adapter", "resized")
    adapters.use("resized")
    assert_close(our_logits(model, ids), torch_logits(reference, ids))
    adapters.use(None)
    np.testing.assert_array_equal(our_logits(model, ids), before)


def test_our_file_of_a_resized_model_loads_in_peft(base, rng, tmp_path):
    # every new row is trained: what a row starts from differs between libraries and does not matter then
    model = our_model(base, rng, MORE, rows=303)
    lora.save_adapter(model, tmp_path / "adapter")
    reference = peft.PeftModel.from_pretrained(plain_torch(base, 303), tmp_path / "adapter")
    ids = rng.integers(0, 303, (2, 11))
    assert_close(our_logits(model, ids), torch_logits(reference, ids))


def test_an_adapter_goes_through_its_files_bit_for_bit(base, rng, tmp_path):
    model = our_model(base, rng, MORE, rows=303)
    lora.save_adapter(model, tmp_path / "adapter")
    again = plain_ours(base, 303)
    lora.load_adapter(again, tmp_path / "adapter", trained=True)
    lora.load_adapter(again, tmp_path / "adapter", trained=True)  # and once more into its own place
    for name, parameter in lora.trainable(model):
        np.testing.assert_array_equal(dict(lora.trainable(again))[name].numpy(), parameter.numpy(), err_msg=name)


@tied_and_untied
def test_merging_writes_the_rows_and_unmerging_restores_them_exactly(base, rng, batch, tmp_path):
    model = our_model(base, rng)
    plain, before = plain_ours(base).transformer.wte.weight.numpy(), our_logits(model, batch[0])
    for _ in range(2):
        lora.merge(model)
    weight = model.transformer.wte.weight.numpy()
    others = np.setdiff1d(np.arange(301), TOKENS)
    np.testing.assert_array_equal(weight[TOKENS], dict(model.named_parameters())[ROWS].numpy())
    np.testing.assert_array_equal(weight[others], plain[others])
    assert_close(our_logits(model, batch[0]), before)
    model.save_pretrained(tmp_path / "merged")
    assert_close(torch_logits(plain_torch(tmp_path / "merged"), batch[0]), before)
    for _ in range(2):
        lora.unmerge(model)
    np.testing.assert_array_equal(model.transformer.wte.weight.numpy(), plain)
    assert_close(our_logits(model, batch[0]), before)


def test_a_classifiers_tokens_and_head_load_in_peft(base, rng, batch, tmp_path):
    model = GPT2ForSequenceClassification.from_pretrained(base, ["no", "yes"])
    config = lora.LoraConfig(r=3, trainable_token_indices=TOKENS, task_type="SEQ_CLS", modules_to_save=["score"])
    lora.inject(model, config)
    for _, parameter in lora.trainable(model):
        parameter.assign(rng.standard_normal(parameter.shape, dtype=np.float32))
    lora.save_adapter(model, tmp_path / "adapter")
    plain = transformers.GPT2ForSequenceClassification.from_pretrained(base, num_labels=2).eval()
    reference = peft.PeftModel.from_pretrained(plain, tmp_path / "adapter")
    expected = [torch_logits(reference, row[None])[0] for row in batch[0]]
    # the largest logits are around 100 here, where every trained number is of size 1: relative as well
    np.testing.assert_allclose(our_logits(model, batch[0]), expected, rtol=LOGITS, atol=LOGITS)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"trainable_token_indices": [3, 301]}, ["301", "0 to 300", "resize_token_embeddings"]),
        ({"trainable_token_indices": [3], "modules_to_save": ["wte"]}, ["modules_to_save", "wte"]),
        ({"trainable_token_indices": [3], "modules_to_save": ["lm_head"]}, ["modules_to_save", "tied"]),
        ({"trainable_token_indices": []}, ["trainable_token_indices", "[]"]),
        ({"trainable_token_indices": [3, 3]}, ["once", "[3, 3]"]),
        ({"trainable_token_indices": [-1]}, ["[-1]"]),
        ({"trainable_token_indices": [1.0]}, ["[1.0]"]),
        ({"trainable_token_indices": "wte"}, ["'wte'"]),
    ],
    ids=str,
)
def test_tokens_that_cannot_be_trained_are_refused_and_leave_the_model_plain(base, settings, words):
    model = plain_ours(base)
    names = [name for name, _ in model.named_parameters()]
    assert_refused(lambda: lora.inject(model, lora.LoraConfig(**settings)), *words)
    assert [name for name, _ in model.named_parameters()] == names


def test_an_untied_head_may_be_saved_whole_beside_trained_tokens(tmp_path, seed, rng):
    base = tiny.model_folder(tmp_path, seed, tie_word_embeddings=False)
    model = our_model(base, rng, modules_to_save=["lm_head"])
    lora.save_adapter(model, tmp_path / "adapter")
    reference = peft.PeftModel.from_pretrained(plain_torch(base), tmp_path / "adapter")
    ids = rng.integers(0, 301, (2, 11))
    assert_close(our_logits(model, ids), torch_logits(reference, ids))


def test_other_embeddings_than_the_tokens_are_refused(base, rng, tmp_path):
    lora.save_adapter(our_model(base, rng), tmp_path / "adapter")
    for field in ({"wpe": [1]}, {"wte": [1], "lm_head": [2]}):
        edit(tmp_path / "adapter", trainable_token_indices=field)
        assert_refused(lambda: lora.load_adapter(plain_ours(base), tmp_path / "adapter"), "token embedding")
    edit(tmp_path / "adapter", trainable_token_indices={})  # none, beside rows of some
    assert_refused(lambda: lora.load_adapter(plain_ours(base), tmp_path / "adapter"), "1 unexpected", ROWS)
    edit(tmp_path / "adapter", trainable_token_indices=TOKENS[:2])
    assert_refused(lambda: lora.load_adapter(plain_ours(base), tmp_path / "adapter"), "[4, 36] instead of [2, 36]")
    assert json.loads((tmp_path / "adapter/adapter_config.json").read_text())["trainable_token_indices"] == [300, 7]


def test_a_vocabulary_is_not_resized_under_an_adapter(base, rng):
    with pytest.raises(ValueError, match="before"):
        our_model(base, rng).resize_token_embeddings(310)
