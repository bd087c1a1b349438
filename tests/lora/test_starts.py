"""How A and B begin: beside PEFT where it can, by hand where it cannot; and what becomes of the base meanwhile."""

import json

import numpy as np
import peft
import pytest
import torch
import transformers
from adapters import (
    SETTINGS,
    assert_refused,
    our_name,
    pefts_logits,
    plain_logits,
    run_lora,
    train_at_random,
    values_of,
)
from references import LOGITS, our_logits

import lora
from common.errors import UserError
from gpt2_jittor import GPT2LMHeadModel
from gpt2_jittor.checkpoint.tokenizer import load_tokenizer
from lora.files import read_adapter
from lora.inspection import describe, inspect
from lora.starts import taken_from

NAMES = ["c_attn", "c_proj", "c_fc"]
FLOAT32 = 1e-5  # absolute, of weights around 1: a decomposition in float64 against one in float32
PEFTS = 2e-4  # PEFT decomposes in float32, and near ones of the singular values enlarge its roundings
TAKEN = ["pissa", "pissa_niter_4", "olora"]
every_taken = pytest.mark.parametrize("start", TAKEN)


def config(start, **more) -> lora.LoraConfig:
    return lora.LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": NAMES, "init_lora_weights": start} | more)


def begun(base, start, **more) -> GPT2LMHeadModel:
    return lora.inject(GPT2LMHeadModel.from_pretrained(base), config(start, **more))


def products(values) -> dict[str, np.ndarray]:
    """B A of each layer, which is what a start decides: A and B alone may turn their signs."""
    paths = {name.removesuffix(".lora_A.weight") for name in values if name.endswith(".lora_A.weight")}
    return {path: values[f"{path}.lora_B.weight"] @ values[f"{path}.lora_A.weight"] for path in paths}


@pytest.mark.parametrize("more", [{}, {"use_rslora": True}, {"use_dora": True}, {"rank_pattern": {"c_fc": 7}}], ids=str)
def test_pissa_begins_as_pefts(base, more):
    plain = transformers.GPT2LMHeadModel.from_pretrained(base)
    settings = dict(r=4, lora_alpha=6, target_modules=NAMES, init_lora_weights="pissa", fan_in_fan_out=True, **more)
    reference = peft.get_peft_model(plain, peft.LoraConfig(**settings))
    theirs = {our_name(name): value.detach().numpy() for name, value in reference.named_parameters()}
    ours = values_of(begun(base, "pissa", **more))
    assert ours.keys() == theirs.keys()
    expected = products(theirs)
    for path, product in products(ours).items():
        np.testing.assert_allclose(product, expected[path], atol=PEFTS, err_msg=path)
    for name in ours:
        if "lora_A" not in name and "lora_B" not in name:
            np.testing.assert_allclose(ours[name], theirs[name], atol=PEFTS, err_msg=name)


@every_taken
@pytest.mark.parametrize("more", [{}, {"use_dora": True, "use_rslora": True}], ids=str)
def test_what_the_matrices_begin_with_is_taken_from_the_weight(base, ids, start, more):
    before = values_of(GPT2LMHeadModel.from_pretrained(base))
    model = begun(base, start, **more)
    scaling = model.adapter_config.scaling
    found = values_of(model)
    for path, product in products(found).items():
        whole = found[f"{path}.weight"] + scaling * product.T
        np.testing.assert_allclose(whole, before[f"{path}.weight"], atol=FLOAT32)
        assert np.abs(product).max() > 0.1
    np.testing.assert_allclose(our_logits(model, ids), plain_logits(base, ids), rtol=0, atol=LOGITS)


def test_olora_is_the_beginning_of_a_qr_decomposition(rng):
    weight = rng.standard_normal((9, 12)).astype(np.float32)  # [in, out]
    given = config("olora", r=3).for_path("transformer.h.0.mlp.c_fc")
    a, b = taken_from(weight, given)
    np.testing.assert_allclose(b.T @ b, np.eye(3), atol=FLOAT32)
    assert np.abs(np.tril(a, -1)).max() < FLOAT32  # the first rows of an upper triangle
    # by Gram and Schmidt: the first 3 rows of the weight lie in the space of B
    rows = weight[:3]
    np.testing.assert_allclose(rows @ b @ b.T, rows, atol=FLOAT32)
    np.testing.assert_allclose(b @ a, b @ b.T @ weight.T, atol=FLOAT32)


@pytest.mark.parametrize("shape", [(9, 12), (12, 9), (7, 7)])
def test_pissa_takes_the_largest_singular_values(rng, shape):
    weight = rng.standard_normal(shape).astype(np.float32)
    left, values, right = np.linalg.svd(weight.T.astype(np.float64), full_matrices=False)
    for start, tolerance in (("pissa", FLOAT32), ("pissa_niter_2000", 10 * FLOAT32)):
        given = config(start, r=3).for_path("transformer.h.0.mlp.c_fc")
        a, b = taken_from(weight, given)
        np.testing.assert_allclose(given.scaling * (b @ a), (left[:, :3] * values[:3]) @ right[:3], atol=tolerance)
        np.testing.assert_allclose(np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=0), rtol=FLOAT32)  # √σ each


def test_pissa_of_a_weight_of_lower_rank_is_finite():
    weight = np.outer(np.arange(5.0), np.arange(7.0)).astype(np.float32)
    a, b = taken_from(weight, config("pissa", r=3, lora_alpha=3).for_path("transformer.h.0.mlp.c_fc"))
    np.testing.assert_allclose(b @ a, weight.T, atol=1e-4)


def test_orthogonal_matrices_are_drawn_as_peft_draws_them_and_change_nothing(base, ids):
    model = begun(base, "orthogonal", r=8)
    torch.manual_seed(3)
    plain = transformers.GPT2LMHeadModel.from_pretrained(base)
    settings = {"r": 8, "target_modules": NAMES, "init_lora_weights": "orthogonal", "fan_in_fan_out": True}
    reference = peft.get_peft_model(plain, peft.LoraConfig(**settings))
    theirs = {our_name(name): value.detach().numpy() for name, value in reference.named_parameters()}
    ours = values_of(model)
    for kind in ("lora_A", "lora_B"):
        found, expected = (
            np.concatenate([v.ravel() for k, v in values.items() if kind in k]) for values in (ours, theirs)
        )
        # thousands of draws that depend on each other by four: the deviation of either is known to some 3 %
        assert found.std() == pytest.approx(expected.std(), rel=0.15)
    assert max(np.abs(product).max() for product in products(ours).values()) < 1e-6
    np.testing.assert_allclose(our_logits(model, ids), plain_logits(base, ids), rtol=0, atol=LOGITS)


@every_taken
def test_a_trained_one_is_read_again_merged_and_unmerged(base, ids, rng, tmp_path, start):
    model = train_at_random(begun(base, start), rng)
    expected = our_logits(model, ids)
    lora.save_adapter(model, tmp_path / "a")
    again = GPT2LMHeadModel.from_pretrained(base)
    lora.load_adapter(again, tmp_path / "a")
    np.testing.assert_array_equal(our_logits(again, ids), expected)
    lora.merge(again)
    np.testing.assert_allclose(our_logits(again, ids), expected, rtol=0, atol=LOGITS)
    adapters = lora.Adapters(GPT2LMHeadModel.from_pretrained(base))
    adapters.load(tmp_path / "a", "a")
    adapters.use("a")
    np.testing.assert_array_equal(our_logits(adapters.model, ids), expected)
    adapters.use(None)
    np.testing.assert_allclose(our_logits(adapters.model, ids), plain_logits(base, ids), rtol=0, atol=LOGITS)


def test_peft_reads_a_trained_pissa(base, ids, rng, tmp_path):
    model = train_at_random(begun(base, "pissa"), rng)
    lora.save_adapter(model, tmp_path / "a")
    # PEFT decomposes the weights again, in float32
    np.testing.assert_allclose(pefts_logits(base, tmp_path / "a", ids), our_logits(model, ids), rtol=0, atol=5 * LOGITS)


# OLoRA takes s times a part of the weights: s is about 1 here, else what is left is larger than what it was left of,
# and float32's roundings with it
TAKING = [{}, {"use_rslora": True, "lora_alpha": 2, "alpha_pattern": {"c_fc": 3}}, {"use_dora": True}]


@every_taken
@pytest.mark.parametrize("more", TAKING, ids=str)
def test_a_converted_one_is_plain_in_peft(base, ids, rng, tmp_path, monkeypatch, start, more):
    model = train_at_random(begun(base, start, base_model_name_or_path=str(base), **more), rng)
    lora.save_adapter(model, tmp_path / "a")
    run_lora(monkeypatch, "convert", "--adapter", tmp_path / "a", "--output", tmp_path / "plain")
    plain = read_adapter(tmp_path / "plain").config
    assert plain.init_lora_weights is True and plain.r == 8 and plain.scaling == model.adapter_config.scaling
    assert json.loads((tmp_path / "plain" / SETTINGS).read_text())["init_lora_weights"] is True
    np.testing.assert_allclose(pefts_logits(base, tmp_path / "plain", ids), our_logits(model, ids), rtol=0, atol=LOGITS)


@every_taken
def test_a_converted_embedding_gives_what_it_has_learnt(base, ids, rng, tmp_path, monkeypatch, start):
    """It began with no part of its weight."""
    targets = {"target_modules": ["c_attn", "wte"], "base_model_name_or_path": str(base)}
    model = train_at_random(begun(base, start, **targets), rng)
    lora.save_adapter(model, tmp_path / "a")
    run_lora(monkeypatch, "convert", "--adapter", tmp_path / "a", "--output", tmp_path / "plain")
    np.testing.assert_allclose(pefts_logits(base, tmp_path / "plain", ids), our_logits(model, ids), rtol=0, atol=LOGITS)


def test_convert_keeps_what_else_the_folder_holds(base, rng, tmp_path, monkeypatch):
    """A vocabulary that was resized, and a tokenizer with a template of its own."""
    plain = transformers.GPT2LMHeadModel.from_pretrained(base)
    plain.resize_token_embeddings(310)
    settings = {"r": 4, "target_modules": ["c_attn"], "init_lora_weights": "pissa", "fan_in_fan_out": True}
    model = peft.get_peft_model(plain, peft.LoraConfig(task_type="CAUSAL_LM", **settings))
    model.save_pretrained(tmp_path / "a", save_embedding_layers=True)
    tokenizer = load_tokenizer(base)
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    tokenizer.save_pretrained(tmp_path / "a")
    options = ["--adapter", tmp_path / "a", "--model", base, "--output", tmp_path / "plain"]
    run_lora(monkeypatch, "convert", *options)
    before, after = read_adapter(tmp_path / "a"), read_adapter(tmp_path / "plain")
    assert before.embeddings.keys() == after.embeddings.keys() and after.embeddings
    assert load_tokenizer(tmp_path / "plain").chat_template == tokenizer.chat_template


def test_inspect_tells_what_a_taken_start_has_learnt(base, tmp_path):
    lora.save_adapter(begun(base, "pissa", base_model_name_or_path=str(base)), tmp_path / "a")
    with_base, without = inspect(tmp_path / "a", base), inspect(tmp_path / "a")
    assert all(row["relative"] < 1e-5 and row["A"] > 0.1 for row in with_base["projections"])  # nothing yet
    assert all("change" not in row for row in without["projections"])
    assert "ΔW" not in describe(without)


def test_pefts_own_olora_is_refused(base, tmp_path):
    """0.21 takes a square weight of GPT-2's for its transpose."""
    plain = transformers.GPT2LMHeadModel.from_pretrained(base)
    settings = {"target_modules": ["attn.c_proj"], "init_lora_weights": "olora", "fan_in_fan_out": True}
    peft.get_peft_model(plain, peft.LoraConfig(task_type="CAUSAL_LM", **settings)).save_pretrained(tmp_path / "a")
    assert_refused(lambda: read_adapter(tmp_path / "a"), str(tmp_path / "a"), "olora", "merge it in PEFT")


def test_a_base_in_16_bits_gives_up_its_part_in_16_bits(base, ids):
    model = GPT2LMHeadModel.from_pretrained(base).freeze().to_precision("fp16")
    lora.inject(model, config("pissa"))
    weights = {name: value for name, value in model.named_parameters() if name.endswith("c_attn.weight")}
    assert {str(value.dtype) for value in weights.values()} == {"float16"}
    found, expected = our_logits(model, ids), plain_logits(base, ids)
    assert np.abs(found - expected).max() <= 0.02 * np.abs(expected).max()  # float16's products, of each layer


@pytest.mark.parametrize("command", ["convert", "combine"])
def test_a_plain_one_is_not_converted_and_a_changed_base_not_summed_up(base, rng, tmp_path, monkeypatch, command):
    start = True if command == "convert" else "pissa"
    model = train_at_random(begun(base, start, base_model_name_or_path=str(base)), rng)
    lora.save_adapter(model, tmp_path / "a")
    words = "leaves its base as it is already" if command == "convert" else "python -m lora convert"
    weights = ["--weights", "1"] if command == "combine" else []
    arguments = [command, "--adapter", tmp_path / "a", *weights, "--output", tmp_path / "b"]
    assert_refused(lambda: run_lora(monkeypatch, *arguments), words)
    assert not (tmp_path / "b").exists()


def test_what_was_refused_leaves_the_model_as_it_was(base, ids, tmp_path):
    """A start that takes from the weights puts them back where the adapter's file does not fit."""
    lora.save_adapter(begun(base, "pissa"), tmp_path / "a")
    path = tmp_path / "a" / SETTINGS
    path.write_text(json.dumps(json.loads(path.read_text()) | {"bias": "all"}))
    model = GPT2LMHeadModel.from_pretrained(base)
    with pytest.raises(UserError, match="missing"):
        lora.load_adapter(model, tmp_path / "a")
    assert model.is_plain
    np.testing.assert_array_equal(our_logits(model, ids), our_logits(GPT2LMHeadModel.from_pretrained(base), ids))
