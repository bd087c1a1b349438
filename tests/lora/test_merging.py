"""Adapters merged into a model's weights and taken out again: logits, weights, and the folder that is made of it."""

import numpy as np
import peft
import pytest
import tiny
import transformers
from adapters import assert_refused, values_of
from lora_settings import IDS, SETTINGS, assert_close, every_setting, our_model
from references import LOGITS, our_logits, torch_logits

import lora
from gpt2_jittor import GPT2LMHeadModel

ROUNDING = 1e-6  # absolute: a few float32 roundings of weights around 1


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.model_folder(tmp_path_factory.mktemp("base"), seed=1)


@every_setting
def test_merging_keeps_the_logits_and_unmerging_brings_them_back(base, settings):
    model = our_model(base, settings)
    before = our_logits(model, IDS)
    lora.merge(model)
    assert model.is_plain
    assert_close(our_logits(model, IDS), before, LOGITS)
    lora.unmerge(model)
    assert not model.is_plain
    assert_close(our_logits(model, IDS), before, LOGITS)


def test_merged_weights_are_pefts(base, tmp_path):
    model = our_model(base, SETTINGS["all projections"])
    lora.save_adapter(model, tmp_path)
    lora.merge(model)
    plain = transformers.GPT2LMHeadModel.from_pretrained(base)
    expected = peft.PeftModel.from_pretrained(plain, tmp_path).merge_and_unload().state_dict()
    for name, value in values_of(model).items():
        if ".lora_" not in name:
            assert_close(value, expected[name].numpy(), ROUNDING, name)


def test_merging_twice_is_merging_once(base):
    model = our_model(base, {})
    lora.merge(model)
    once = values_of(model)
    lora.merge(model)
    for name, value in values_of(model).items():
        np.testing.assert_array_equal(value, once[name], err_msg=name)


def test_unmerging_restores_the_weights_to_rounding(base):
    model = our_model(base, {"target_modules": ["c_attn", "c_proj"]})
    before = values_of(model)
    lora.merge(model)
    lora.unmerge(model)
    lora.unmerge(model)  # of which the second does nothing
    for name, value in values_of(model).items():
        assert_close(value, before[name], ROUNDING, name)


def test_a_merged_bias_is_not_saved_twice(base, tmp_path):
    model = our_model(base, {"lora_bias": True, "bias": "all"})
    lora.merge(model)
    assert_refused(lambda: lora.save_adapter(model, tmp_path / "a"), "unmerge it before it is saved")
    lora.unmerge(model)
    lora.save_adapter(model, tmp_path / "a")


def test_a_head_and_an_embedding_that_merging_took_apart_are_in_16_bits_too(base):
    model = our_model(base, {"target_modules": ["wte"]})
    expected = our_logits(model, IDS)
    lora.merge(model)
    assert {"lm_head.weight", "transformer.wte.weight"} <= {name for name, _ in model.named_parameters()}
    model.freeze().to_precision("fp16")
    assert str(model.parameter("lm_head.weight").dtype) == "float16"
    assert np.abs(our_logits(model, IDS) - expected).max() <= 0.02 * np.abs(expected).max()


UNTIED = [
    *({"modules_to_save": ["lm_head"]}, {"modules_to_save": ["wte"]}, {"target_modules": ["lm_head"]}),
    *({"target_modules": ["wte"]}, {"target_modules": ["wte", "lm_head"], "use_dora": True}),
]


@pytest.mark.parametrize("settings", [{}, *UNTIED], ids=str)
def test_a_merged_model_is_saved_for_transformers_with_its_logits(base, settings, tmp_path):
    model = our_model(base, settings)
    expected = our_logits(model, IDS)
    lora.merge(model)
    model.save_pretrained(tmp_path)
    reference = transformers.GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    assert reference.config.tie_word_embeddings == (settings not in UNTIED)
    assert_close(torch_logits(reference, IDS), expected, LOGITS)
    assert_close(our_logits(GPT2LMHeadModel.from_pretrained(tmp_path), IDS), expected, LOGITS)


def test_a_number_that_float16_cannot_hold_is_not_written_as_infinity(base, tmp_path):
    model = our_model(base, {})
    lora.merge(model)
    bias = model.transformer.h[1].mlp.c_proj.bias
    bias.assign(np.full(bias.shape, 7e4, np.float32))
    assert_refused(lambda: model.save_pretrained(tmp_path / "half", dtype="float16"), "c_proj.bias", "7e+04", "float32")
    assert not (tmp_path / "half").exists()
    model.save_pretrained(tmp_path / "whole")
