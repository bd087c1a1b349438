"""int8 weights against a reference that dequantises them on its own, and against the float32 model."""

import copy

import numpy as np
import pytest
import tiny
import torch
from commands import assert_one_line_error, command

import lora
from common.errors import UserError
from generation.decoding import generate
from generation.sampling import make_sampler
from gpt2_jittor.model.classifier import GPT2ForSequenceClassification
from gpt2_jittor.model.lm import GPT2LMHeadModel
from gpt2_jittor.model.quantized import quantize
from gpt2_jittor.ops import fused
from gpt2_jittor.ops.int8 import int8_linear, int8_transposed, quantize_rows, to_panels
from gpt2_jittor.runtime.backend import jt

LOGITS = 1e-4  # two float32 programs on the same int8 weights
# Deviation from the float32 model's logits, of theirs: a weight is off by up to 1/254 of its output's largest, which is
# some three times a typical one; about 1 % each, which grows over nine products in a row and where attention is sharp.
OF_DEVIATION = 0.1

VOCAB = tiny.SIZES["vocab_size"]
GREEDY = make_sampler(greedy=True)


def dequantised(weight: np.ndarray, axis: int) -> np.ndarray:
    """What int8 makes of a weight whose outputs lie along `axis`; in float32, so that no tie is rounded otherwise."""
    scale = np.abs(weight).max(axis=1 - axis, keepdims=True) / np.float32(127)
    return np.rint(weight / scale) * scale


def models(folder, seed, **settings):
    """transformers' random model with weights that went through int8, and our model before that happened."""
    theirs = tiny.hf_model(seed, attn_implementation="eager", **settings)
    theirs.save_pretrained(folder)
    for name, parameter in theirs.named_parameters():
        axis = 1 if ".c_" in name else 0
        if parameter.ndim == 2 and "wpe" not in name:
            parameter.data = torch.tensor(dequantised(parameter.detach().numpy(), axis))
    return theirs, GPT2LMHeadModel.from_pretrained(folder)


def test_a_row_becomes_multiples_of_its_largest_magnitude_by_127():
    rows = np.array([[127, -63.4, 0.5, 0.51], [0, 0, 0, 0], [-0.254, 0.1, 0.001, 0]], np.float32)
    found, scales = quantize_rows(rows)
    assert found.dtype == np.int8 and scales.dtype == np.float32
    np.testing.assert_array_equal(found, [[127, -63, 0, 1], [0, 0, 0, 0], [-127, 50, 0, 0]])
    np.testing.assert_allclose(scales, [1, 1, 0.002], rtol=1e-6)


def test_no_weight_is_off_by_more_than_half_its_rows_scale(rng):
    rows = (rng.standard_normal((57, 91)) * 10 ** rng.uniform(-6, 3, (57, 1))).astype(np.float32)
    found, scales = quantize_rows(rows)
    assert np.abs(found).max() == 127
    error = np.abs(found * scales[:, None].astype(np.float64) - rows).max(axis=1)
    assert np.all(error <= 0.5001 * np.abs(rows).max(axis=1) / 127)  # a little more: the scale is rounded itself


@pytest.mark.parametrize("way", ["fused", "composed"])
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (63, 5), (64, 37), (65, 130), (200, 36)])
def test_products_are_those_with_the_dequantised_weight(rng, outputs, inputs, way, monkeypatch):
    if way == "composed":
        monkeypatch.setattr(fused, "_composed_only", True)
    weight = rng.standard_normal((outputs, inputs)).astype(np.float32)
    x, bias = rng.standard_normal((2, 3, inputs)).astype(np.float32), rng.standard_normal(outputs).astype(np.float32)
    rows, scales = quantize_rows(weight)
    expected = x.astype(np.float64) @ dequantised(weight, 0).T
    panels = jt.array(to_panels(rows))
    found = int8_linear(jt.array(x), panels, jt.array(scales), jt.array(bias)).numpy()
    np.testing.assert_allclose(found, expected + bias, atol=LOGITS)
    found = int8_transposed(jt.array(x.reshape(6, -1)), jt.array(rows), jt.array(scales)).numpy()
    np.testing.assert_allclose(found, expected.reshape(6, -1), atol=LOGITS)


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize(
    "size", [{}, {"n_embd": 144, "n_head": 2, "n_inner": 131}, {"tie_word_embeddings": False}], ids=str
)
def test_logits_and_greedy_texts_are_transformers_on_dequantised_weights(tmp_path, seed, rng, size, batch):
    theirs, ours = models(tmp_path, seed, **size)
    plain = ours(ids := rng.integers(0, VOCAB, (batch, 17))).numpy()
    quantize(ours)
    with torch.no_grad():
        expected = theirs(torch.tensor(ids)).logits.numpy()
    found = ours(ids).numpy()
    assert np.abs(found - expected).max() <= LOGITS * max(1, np.abs(expected).max())
    with fused.composed_only():
        assert np.abs(ours(ids).numpy() - expected).max() <= LOGITS * max(1, np.abs(expected).max())
    assert 0 < (found - plain).std() <= OF_DEVIATION * plain.std()
    settings = {"do_sample": False, "max_new_tokens": 12, "eos_token_id": None, "pad_token_id": 0}
    texts = theirs.generate(torch.tensor(ids), attention_mask=torch.ones(ids.shape), **settings)[:, 17:].tolist()
    assert [row.ids for row in generate(ours, list(ids), GREEDY, 12, None)] == texts


def test_a_merged_adapter_is_quantised_with_its_weights_and_an_unmerged_one_refused(tmp_path, seed, rng):
    _, ours = models(tmp_path, seed)
    targets = ["c_attn", "c_proj", "c_fc"]
    lora.inject(
        ours, lora.LoraConfig(r=3, target_modules=targets, init_lora_weights=False, trainable_token_indices=[5])
    )
    with pytest.raises(UserError, match="merge it"):
        quantize(ours)
    lora.merge(ours)
    ids = rng.integers(0, VOCAB, (2, 9))
    plain = ours(ids).numpy()
    quantize(ours)
    assert (ours(ids).numpy() - plain).std() <= OF_DEVIATION * plain.std()


def test_int8_weights_are_a_quarter_and_are_not_saved_as_a_model(tmp_path, seed):
    _, ours = models(tmp_path, seed)
    embedding = ours.transformer.wte.weight.numel()
    quantize(ours)
    rows, scales = ours.transformer.wte.parts
    assert rows.dtype == "int8" and rows.numel() == embedding and scales.numel() == VOCAB
    assert not any(".wte." in name or ".c_fc.weight" in name for name, _ in ours.named_parameters())
    with pytest.raises(UserError, match="int8.*save the model before"):
        ours.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_a_classifiers_body_is_quantised_and_its_head_is_not(tmp_path, seed, rng):
    tiny.hf_model(seed).save_pretrained(tmp_path)
    ours = GPT2ForSequenceClassification.from_pretrained(tmp_path, labels=("no", "yes"))
    ids = rng.integers(0, VOCAB, (3, 11))
    plain, head = ours(ids).numpy(), copy.deepcopy(ours.score.weight.numpy())
    quantize(ours)
    assert (ours(ids).numpy() - plain).std() <= OF_DEVIATION * plain.std()
    np.testing.assert_array_equal(ours.score.weight.numpy(), head)


# --- the commands


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.model_folder(tmp_path_factory.mktemp("int8") / "model", seed=3)


def test_generate_answers_with_int8_weights(folder):
    result = command("generate.py", "--model", folder, "--prompt", "tea", "--greedy", "--max-new-tokens", 5, "--int8")
    assert result.returncode == 0, result.stderr


def test_evaluate_puts_int8_beside_float32_and_tells_the_difference(folder):
    options = ("--task", "dailydialog", "--data-dir", "sample", "--model", folder, "--limit", 5, "--loss-only")
    result = command("evaluate.py", *options, "--max-length", 90, "--int8")
    assert result.returncode == 0, result.stderr
    assert "int8" in result.stdout.splitlines()[1] and "int8: perplexity " in result.stdout.splitlines()[-1]


@pytest.mark.parametrize("program", ["generate.py", "evaluate.py"])
def test_int8_on_cuda_is_refused_at_once(program):
    assert_one_line_error(command(program, "--int8", "--device", "cuda"), "--int8", "CPU only", "--device cpu")
