"""int8 and bf16 weights against a reference that rounds them on its own, and against the float32 model."""

import copy

import numpy as np
import pytest
import tiny
import torch
from commands import assert_one_line_error, command

import generation
import lora
from common.errors import UserError
from generation.decoding import generate
from generation.sampling import make_sampler
from gpt2_jittor.model.cache import KVCache
from gpt2_jittor.model.classifier import GPT2ForSequenceClassification
from gpt2_jittor.model.lm import GPT2LMHeadModel
from gpt2_jittor.model.next_token import last_logits
from gpt2_jittor.model.quantized import quantize
from gpt2_jittor.ops import fused
from gpt2_jittor.ops.decode_step import DecodeStep
from gpt2_jittor.ops.int8 import quantize_rows
from gpt2_jittor.ops.narrow import FORMATS, as_read, narrow_linear, narrow_transposed, to_var
from gpt2_jittor.runtime.backend import jt

LOGITS = 1e-4  # two float32 programs on the same weights
# Of a decoded token: int8 is multiplied with 16 bits of what comes in, off by 1/65,534 of the largest, some 2e-5 of a
# product; nine products in a row.
DECODED = {"int8": 5e-4, "bf16": LOGITS}
# Deviation from the float32 model's logits, of theirs. int8: a weight is off by up to 1/254 of its output's largest,
# which is some three times a typical one; about 1 % each, which grows over nine products in a row and where attention
# is sharp. bf16: by up to 1/256 of itself, so by a quarter of that.
OF_DEVIATION = {"int8": 0.1, "bf16": 0.03}

VOCAB = tiny.SIZES["vocab_size"]
GREEDY = make_sampler(greedy=True)


def rounded(weight: np.ndarray, axis: int, weights: str) -> np.ndarray:
    """What a format makes of a weight whose outputs lie along `axis`; in float32, so that ties fall alike."""
    if weights == "bf16":
        return torch.tensor(weight).bfloat16().float().numpy()
    scale = np.abs(weight).max(axis=1 - axis, keepdims=True) / np.float32(127)
    return np.rint(weight / scale) * scale


def models(folder, seed, weights, **settings):
    """transformers' random model with weights that went through a format, and our model before that happened."""
    theirs = tiny.hf_model(seed, attn_implementation="eager", **settings)
    theirs.save_pretrained(folder)
    for name, parameter in theirs.named_parameters():
        axis = 1 if ".c_" in name else 0
        if parameter.ndim == 2 and "wpe" not in name:
            parameter.data = torch.tensor(rounded(parameter.detach().numpy(), axis, weights))
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


def test_bfloat16_is_torchs(rng):
    rows = (rng.standard_normal((37, 91)) * 10 ** rng.uniform(-40, 38, (37, 1))).astype(np.float32)
    halves = np.array([[1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 3.4e38, -0.0] + [0] * 86], np.float32)  # ties, too large
    rows = np.concatenate([rows, halves])
    (bits,) = FORMATS["bf16"](rows)
    np.testing.assert_array_equal(bits, torch.tensor(rows).bfloat16().view(torch.int16).numpy().view(np.uint16))
    np.testing.assert_array_equal(to_var(bits).float32().numpy(), torch.tensor(rows).bfloat16().float().numpy())


@pytest.mark.parametrize("weights", FORMATS)
@pytest.mark.parametrize("way", ["fused", "composed"])
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (63, 5), (64, 37), (65, 130), (200, 36)])
def test_products_are_those_with_the_rounded_weight(rng, outputs, inputs, way, weights, monkeypatch):
    if way == "composed":
        monkeypatch.setattr(fused, "_composed_only", True)
    weight = rng.standard_normal((outputs, inputs)).astype(np.float32)
    x, bias = rng.standard_normal((2, 3, inputs)).astype(np.float32), rng.standard_normal(outputs).astype(np.float32)
    rows, *scales = FORMATS[weights](weight)
    scales = [jt.array(scale) for scale in scales]
    expected = x.astype(np.float64) @ rounded(weight, 0, weights).T
    found = narrow_linear(jt.array(x), to_var(as_read(rows)), *scales, jt.array(bias)).numpy()
    np.testing.assert_allclose(found, expected + bias, atol=LOGITS)
    found = narrow_transposed(jt.array(x.reshape(6, -1)), to_var(rows), *scales).numpy()
    np.testing.assert_allclose(found, expected.reshape(6, -1), atol=LOGITS)


@pytest.mark.parametrize(("weights", "batch"), [("int8", 1), ("int8", 3), ("int8", 8), ("bf16", 3)])
@pytest.mark.parametrize(
    "size", [{}, {"n_embd": 144, "n_head": 2, "n_inner": 131}, {"tie_word_embeddings": False}], ids=str
)
def test_logits_and_greedy_texts_are_transformers_on_rounded_weights(tmp_path, seed, rng, size, batch, weights):
    theirs, ours = models(tmp_path, seed, weights, **size)
    plain = ours(ids := rng.integers(0, VOCAB, (batch, 17))).numpy()
    quantize(ours, weights)
    with torch.no_grad():
        expected = theirs(torch.tensor(ids)).logits.numpy()
    found = ours(ids).numpy()
    assert np.abs(found - expected).max() <= LOGITS * max(1, np.abs(expected).max())
    with fused.composed_only():
        assert np.abs(ours(ids).numpy() - expected).max() <= LOGITS * max(1, np.abs(expected).max())
    assert 0 < (found - plain).std() <= OF_DEVIATION[weights] * plain.std()
    found = np.array([row.ids for row in generate(ours, list(ids), GREEDY, 12, None)])
    with torch.no_grad():  # of each token, given those that were chosen before it
        expected = theirs(torch.tensor(np.concatenate([ids, found], 1))).logits[:, 16:-1].numpy()
    chosen = np.take_along_axis(expected, found[:, :, None], 2)[:, :, 0]
    assert found.shape == (batch, 12)
    assert (expected.max(2) - chosen).max() <= 2 * DECODED[weights] * max(1, np.abs(expected).max())


@pytest.mark.parametrize("weights", FORMATS)
@pytest.mark.parametrize("batch", [1, 4, 7])
def test_the_decoding_kernels_logits_are_transformers_on_rounded_weights(
    tmp_path, seed, rng, batch, weights, monkeypatch
):
    steps, call = [], DecodeStep.__call__
    monkeypatch.setattr(DecodeStep, "__call__", lambda *args: (steps.append(len(args[1])), call(*args))[1])
    theirs, ours = models(tmp_path, seed, weights, n_embd=80, n_head=1, n_inner=331)
    quantize(ours, weights)
    ids, cache = rng.integers(0, VOCAB, (batch, 9)), KVCache()
    last_logits(ours, ids[:, :8], cache)
    found = last_logits(ours, ids[:, 8:], cache)
    assert steps == [batch]
    with torch.no_grad():
        expected = theirs(torch.tensor(ids)).logits[:, -1].numpy()
    assert np.abs(found - expected).max() <= DECODED[weights] * max(1, np.abs(expected).max())


@pytest.mark.parametrize("weights", FORMATS)
def test_a_merged_adapter_is_rounded_with_its_weights_and_an_unmerged_one_refused(tmp_path, seed, rng, weights):
    _, ours = models(tmp_path, seed, weights)
    targets = ["c_attn", "c_proj", "c_fc"]
    lora.inject(
        ours, lora.LoraConfig(r=3, target_modules=targets, init_lora_weights=False, trainable_token_indices=[5])
    )
    with pytest.raises(UserError, match=f"merge it before they become {weights}"):
        quantize(ours, weights)
    lora.merge(ours)
    ids = rng.integers(0, VOCAB, (2, 9))
    plain = ours(ids).numpy()
    quantize(ours, weights)
    assert 0 < (ours(ids).numpy() - plain).std() <= OF_DEVIATION[weights] * plain.std()


@pytest.mark.parametrize(("weights", "dtype"), [("int8", "int8"), ("bf16", "bfloat16")])
def test_narrow_weights_are_a_part_and_are_not_saved_as_a_model(tmp_path, seed, weights, dtype):
    _, ours = models(tmp_path, seed, weights)
    embedding = ours.transformer.wte.weight.numel()
    quantize(ours, weights)
    rows, *scales = ours.transformer.wte.parts
    assert rows.dtype == dtype and rows.numel() == embedding
    assert [scale.numel() for scale in scales] == ([VOCAB] if weights == "int8" else [])
    assert not any(".wte." in name or ".c_fc.weight" in name for name, _ in ours.named_parameters())
    with pytest.raises(UserError, match=f"{weights}.*save the model before"):
        ours.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize("weights", FORMATS)
def test_a_classifiers_body_is_rounded_and_its_head_is_not(tmp_path, seed, rng, weights):
    tiny.hf_model(seed).save_pretrained(tmp_path)
    ours = GPT2ForSequenceClassification.from_pretrained(tmp_path, labels=("no", "yes"))
    ids = rng.integers(0, VOCAB, (3, 11))
    plain, head = ours(ids).numpy(), copy.deepcopy(ours.score.weight.numpy())
    quantize(ours, weights)
    assert 0 < (ours(ids).numpy() - plain).std() <= OF_DEVIATION[weights] * plain.std()
    np.testing.assert_array_equal(ours.score.weight.numpy(), head)


@pytest.mark.parametrize("weights", FORMATS)
@pytest.mark.parametrize(
    ("kind", "tied", "given"),
    [
        (GPT2LMHeadModel, True, {}),
        (GPT2LMHeadModel, False, {}),
        (GPT2LMHeadModel, True, {"vocabulary": VOCAB + 5}),
        (GPT2ForSequenceClassification, True, {"labels": ("a", "b")}),
    ],
)
def test_what_is_read_narrow_is_what_becomes_so(tmp_path, seed, rng, weights, kind, tied, given):
    tiny.hf_model(seed, tie_word_embeddings=tied).save_pretrained(tmp_path)
    read, made = (kind.from_pretrained(tmp_path, weights=how, **given) for how in (weights, "fp32"))
    quantize(made, weights)
    ids = rng.integers(0, given.get("vocabulary", VOCAB), (3, 11))
    np.testing.assert_array_equal(read(ids).numpy(), made(ids).numpy())
    assert read.quantized == weights and read.config == made.config


# --- the commands


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.model_folder(tmp_path_factory.mktemp("narrow") / "model", seed=3)


@pytest.mark.parametrize("typed", [("--int8",), ("--weights", "bf16")], ids=" ".join)
def test_generate_answers_with_narrow_weights(folder, typed):
    result = command("generate.py", "--model", folder, "--prompt", "tea", "--greedy", "--max-new-tokens", 5, *typed)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(("typed", "name"), [(("--int8",), "int8"), (("--weights", "bf16"), "bf16")])
def test_evaluate_puts_narrow_weights_beside_float32_and_tells_the_difference(folder, typed, name):
    options = ("--task", "dailydialog", "--data-dir", "sample", "--model", folder, "--limit", 5, "--loss-only")
    result = command("evaluate.py", *options, "--max-length", 90, *typed)
    assert result.returncode == 0, result.stderr
    assert name in result.stdout.splitlines()[1] and f"{name}: perplexity " in result.stdout.splitlines()[-1]


@pytest.mark.parametrize("program", ["generate.py", "evaluate.py"])
def test_int8_on_cuda_is_refused_at_once(program):
    assert_one_line_error(command(program, "--int8", "--device", "cuda"), "--int8", "CPU only", "--device cpu")


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (("--weights", "bf16", "--device", "cuda"), ("--weights bf16", "CPU only", "--device cpu")),
        (("--weights", "bf16", "--precision", "bf16"), ("--weights bf16", "--precision bf16", "exclude each other")),
        (("--weights", "int4"), ("--weights", "int4", "fp32", "bf16", "int8")),
        (("--weights", "bf16", "--int8"), ("--int8", "not allowed with", "--weights")),
    ],
)
def test_weights_that_cannot_be_had_are_refused_at_once(typed, words):
    assert_one_line_error(command("generate.py", *typed), *words)


def test_weights_are_a_parameter_of_loading(folder):
    assert generation.load(folder, weights="bf16").model.quantized == "bf16"
    assert generation.load(folder, int8=True).model.quantized == "int8"
    with pytest.raises(UserError, match="weights must be one of fp32, bf16, int8, not 'int4'"):
        generation.load(folder, weights="int4")
    with pytest.raises(UserError, match="int8 is short for weights int8: leave it out"):
        generation.load(folder, weights="bf16", int8=True)
