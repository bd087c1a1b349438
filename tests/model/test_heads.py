"""A head that is not the embedding although config.json says so: in logits, files, larger vocabularies and merges."""

import json

import numpy as np
import peft
import pytest
import safetensors.torch
import tiny
import torch
import transformers
from references import LOGITS, torch_logits

import lora
from common.errors import UserError
from gpt2_jittor import GPT2ForSequenceClassification, GPT2LMHeadModel
from gpt2_jittor.checkpoint.stored import HEAD
from lora.merging import plan, write

SCALE = 0.3  # of a head's numbers; the embedding's are about as large


@pytest.fixture
def base(tmp_path, seed):
    """A folder that says tied, with another head in its file."""
    folder = tiny.model_folder(tmp_path / "base", seed)
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is True
    state = safetensors.torch.load_file(folder / "model.safetensors")
    state[HEAD] = SCALE * torch.randn(tiny.SIZES["vocab_size"], tiny.SIZES["n_embd"])
    safetensors.torch.save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def ids(rng):
    return rng.integers(0, tiny.SIZES["vocab_size"], (3, 17))


def torch_model(folder) -> transformers.GPT2LMHeadModel:
    model = transformers.GPT2LMHeadModel.from_pretrained(folder).eval()
    assert model.lm_head.weight is not model.transformer.wte.weight
    return model


def test_logits_and_loss_are_those_of_transformers(base, ids):
    reference, model = torch_model(base), GPT2LMHeadModel.from_pretrained(base)
    np.testing.assert_allclose(model(ids).numpy(), torch_logits(reference, ids), rtol=0, atol=LOGITS)
    with torch.no_grad():
        expected = reference(torch.tensor(ids), labels=torch.tensor(ids)).loss.item()
    assert model.loss(ids, ids).item() == pytest.approx(expected, rel=1e-5)


def test_what_is_saved_is_read_with_its_head_by_both(base, ids, tmp_path):
    GPT2LMHeadModel.from_pretrained(base).save_pretrained(tmp_path / "saved")
    expected = torch_logits(torch_model(base), ids)
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["tie_word_embeddings"] is False
    np.testing.assert_array_equal(torch_logits(torch_model(tmp_path / "saved"), ids), expected)
    ours = GPT2LMHeadModel.from_pretrained(tmp_path / "saved")(ids).numpy()
    np.testing.assert_allclose(ours, expected, rtol=0, atol=LOGITS)


def test_a_larger_vocabulary_has_more_rows_in_both_tables(base, ids, tmp_path):
    model, reference = GPT2LMHeadModel.from_pretrained(base), torch_model(base)
    tables = [reference.lm_head.weight, reference.transformer.wte.weight]
    rows = [torch.cat([table, table.mean(0, keepdim=True).expand(5, -1)]).detach().numpy() for table in tables]
    model.resize_token_embeddings(tiny.SIZES["vocab_size"] + 5)
    model.save_pretrained(tmp_path / "larger")
    larger = torch_model(tmp_path / "larger")
    for found, expected in zip((larger.lm_head.weight, larger.transformer.wte.weight), rows, strict=True):
        np.testing.assert_allclose(found.detach().numpy(), expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(larger.lm_head.weight[:-5].detach().numpy(), tables[0].detach().numpy())
    np.testing.assert_allclose(model(ids).numpy()[..., :-5], torch_logits(reference, ids), rtol=0, atol=LOGITS)


def test_an_adapter_is_merged_into_it_as_peft_merges(base, ids, tmp_path, rng):
    config = lora.LoraConfig(r=3, lora_alpha=7, target_modules=["c_attn"], base_model_name_or_path=str(base))
    model = lora.inject(GPT2LMHeadModel.from_pretrained(base), config)
    for _, parameter in lora.trainable(model):
        parameter.assign(0.2 * rng.standard_normal(parameter.shape, dtype=np.float32))
    lora.save_adapter(model, tmp_path / "adapter")
    expected = torch_logits(peft.PeftModel.from_pretrained(torch_model(base), tmp_path / "adapter").eval(), ids)
    write(plan(tmp_path / "adapter"), tmp_path / "merged")
    np.testing.assert_allclose(torch_logits(torch_model(tmp_path / "merged"), ids), expected, rtol=0, atol=LOGITS)
    assert np.abs(expected - torch_logits(torch_model(base), ids)).max() > 100 * LOGITS


def test_a_classifier_is_made_of_its_body(base, ids, seed):
    model = GPT2ForSequenceClassification.from_pretrained(base, ["no", "yes"], seed)
    reference = torch_model(base).transformer
    with torch.no_grad():
        hidden = reference(torch.tensor(ids)).last_hidden_state[:, -1].numpy()
    np.testing.assert_allclose(model(ids).numpy(), hidden @ model.score.weight.numpy().T, rtol=0, atol=LOGITS)


def test_a_language_model_is_not_made_without_a_head(tmp_path, seed):
    folder = tiny.model_folder(tmp_path, seed)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    with pytest.raises(UserError, match="1 missing .lm_head.weight"):
        GPT2LMHeadModel.from_pretrained(folder)
    assert GPT2ForSequenceClassification.from_pretrained(folder, ["no", "yes"]).score.weight.shape == [2, 36]


def test_a_classifiers_head_is_not_left_out_of_a_language_model(tmp_path, seed):
    GPT2ForSequenceClassification.from_pretrained(
        tiny.model_folder(tmp_path / "a", seed), ["no", "yes"]
    ).save_pretrained(tmp_path / "b")
    with pytest.raises(UserError, match="1 unexpected .score.weight"):
        GPT2LMHeadModel.from_pretrained(tmp_path / "b")
