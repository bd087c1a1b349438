"""LoRA on parts of c_attn, queries, keys, values: trained as such, an adapter of c_attn to everybody else."""

import json

import numpy as np
import pytest
import tiny
from adapters import SETTINGS, assert_refused, pefts_logits, plain_logits, train_at_random, values_of
from references import GRADIENT, LOGITS, our_logits

import lora
from gpt2_jittor import GPT2LMHeadModel
from gpt2_jittor.runtime.backend import jt
from lora.linear import LoraLinear
from training.optimizer import AdamW

WIDTH = tiny.SIZES["n_embd"]
ROWS = {part: slice(number * WIDTH, (number + 1) * WIDTH) for number, part in enumerate("qkv")}
VARIANTS = [{}, {"use_rslora": True}, {"lora_bias": True}, {"target_modules": ["c_attn", "c_fc"]}]


def with_parts(base, parts, **more) -> GPT2LMHeadModel:
    settings = {"r": 3, "lora_alpha": 7, "target_modules": ["c_attn"], "qkv": parts} | more
    return lora.inject(GPT2LMHeadModel.from_pretrained(base), lora.LoraConfig(**settings))


def trained(model, updates: int = 3) -> GPT2LMHeadModel:
    optimizer = AdamW(lora.trainable(model), weight_decay=0.1)
    for seed in range(updates):
        optimizer.step(jt.grad(model.loss(*tiny.padded_batch(seed)), optimizer.parameters), 0.05)
    return model


def moved(model, rng) -> GPT2LMHeadModel:
    """Everything that is trained moved at random, which in B are the parts' own rows and columns."""
    train_at_random(model, rng)
    for layer in model.layers().values():
        if isinstance(layer, LoraLinear):
            layer.lora_B.weight.assign(layer.matrices()[1].numpy())
    return model


def gradients(model) -> dict[str, np.ndarray]:
    names, parameters = zip(*lora.trainable(model), strict=True)
    found = jt.grad(model.loss(*tiny.padded_batch(seed=6)), list(parameters))
    return {name: gradient.numpy() for name, gradient in zip(names, found, strict=True)}


@pytest.mark.parametrize("bias", [False, True])
def test_what_stays_zero_is_not_counted_as_trained(base, bias):
    model = with_parts(base, ["q", "v"], lora_bias=bias)
    layers = tiny.SIZES["n_layer"]
    assert lora.count(model)[0] == layers * 2 * (3 * WIDTH + WIDTH * 3 + bias * WIDTH)  # A, B and B's bias of each part
    whole = sum(value.numel() for _, value in lora.trainable(model))
    assert whole == layers * (6 * WIDTH + 3 * WIDTH * 6 + bias * 3 * WIDTH)


@pytest.mark.parametrize("parts", [["q", "v"], ["k"], ["v", "k", "q"]], ids=str)
@pytest.mark.parametrize("more", VARIANTS, ids=str)
def test_other_columns_stay_as_they_were(base, rng, parts, more):
    model = trained(moved(with_parts(base, parts, **more), rng))
    lora.merge(model)
    plain = values_of(GPT2LMHeadModel.from_pretrained(base))
    for layer in (0, 1):
        path = f"transformer.h.{layer}.attn.c_attn"
        changed = {
            part
            for part, rows in ROWS.items()
            if np.abs(values_of(model)[f"{path}.weight"][:, rows] - plain[f"{path}.weight"][:, rows]).max() > 1e-3
        }
        assert changed == set(parts)
        assert values_of(model)[f"{path}.lora_A.weight"].shape == (3 * len(parts), WIDTH)


@pytest.mark.parametrize("more", VARIANTS, ids=str)
def test_peft_reads_an_adapter_of_c_attn_with_the_same_logits(base, ids, tmp_path, more):
    model = trained(with_parts(base, ["q", "v"], **more))
    expected = our_logits(model, ids)
    assert np.abs(expected - plain_logits(base, ids)).max() > 100 * LOGITS
    lora.save_adapter(model, tmp_path / "a")
    np.testing.assert_allclose(pefts_logits(base, tmp_path / "a", ids), expected, rtol=0, atol=LOGITS)
    again = GPT2LMHeadModel.from_pretrained(base)
    lora.load_adapter(again, tmp_path / "a")
    np.testing.assert_allclose(our_logits(again, ids), expected, rtol=0, atol=LOGITS)
    lora.merge(model)
    np.testing.assert_allclose(our_logits(model, ids), expected, rtol=0, atol=LOGITS)
    # where c_attn is all there is, no pattern is needed, and old readers know what they read
    settings = json.loads((tmp_path / "a" / SETTINGS).read_text())
    assert ("rank_pattern" in settings) == ("target_modules" in more)


@pytest.mark.parametrize("more", VARIANTS[:3], ids=str)
def test_training_a_part_is_training_its_rows_alone(base, tmp_path, rng, more):
    """The gradients are those of the whole of c_attn, cut to the parts' own."""
    model = moved(with_parts(base, ["q", "v"], **more), rng)
    lora.save_adapter(model, tmp_path / "a")
    whole = GPT2LMHeadModel.from_pretrained(base)
    lora.load_adapter(whole, tmp_path / "a", trained=True)
    found, expected = gradients(model), gradients(whole)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        own = np.ones(gradient.shape, bool)
        if name.endswith("lora_B.weight"):
            own[:] = False
            own[ROWS["q"], :3] = own[ROWS["v"], 3:] = True
        elif gradient.ndim == 1:
            own[ROWS["k"]] = False
        assert not found[name][~own].any()
        assert np.linalg.norm(found[name] - gradient * own) <= GRADIENT * np.linalg.norm(gradient * own), name


def test_an_adapter_of_all_of_c_attn_has_no_place_among_parts(base, rng, tmp_path):
    whole = lora.LoraConfig(r=6, lora_alpha=14, target_modules=["c_attn"])
    lora.save_adapter(train_at_random(lora.inject(GPT2LMHeadModel.from_pretrained(base), whole), rng), tmp_path / "a")
    model = with_parts(base, ["q", "v"])
    assert_refused(lambda: lora.load_adapter(model, tmp_path / "a"), "changes more of", "c_attn than the parts")
