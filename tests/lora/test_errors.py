"""What LoRA refuses: impossible settings, and adapters that are damaged, foreign or of another model."""

import math
import time

import numpy as np
import pytest
import safetensors.numpy
import tiny
from adapters import SETTINGS, assert_refused, edit

import lora
from common.errors import UserError
from gpt2_jittor import GPT2LMHeadModel
from gpt2_jittor.checkpoint.fingerprint import fingerprint
from gpt2_jittor.checkpoint.stored import open_model
from gpt2_jittor.runtime.backend import jt
from lora.combination import combine
from lora.files import read_adapter

CONFIG = lora.LoraConfig(r=3, lora_alpha=7, target_modules=["c_attn"])
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.model_folder(tmp_path_factory.mktemp("base"), seed=1)


@pytest.fixture
def model(base):
    return GPT2LMHeadModel.from_pretrained(base)


@pytest.fixture
def adapter(base, tmp_path):
    """The folder of a sound adapter, for the test to damage."""
    lora.save_adapter(lora.inject(GPT2LMHeadModel.from_pretrained(base), CONFIG), tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"r": 0}, ["r must be", "at least 1"]),
        ({"r": 2.5}, ["r must be", "2.5"]),
        ({"lora_alpha": 0}, ["lora_alpha", "positive"]),
        ({"lora_alpha": math.inf}, ["lora_alpha", "inf"]),
        ({"lora_dropout": 1}, ["lora_dropout", "below 1"]),
        ({"lora_dropout": -0.1}, ["lora_dropout", "at least 0"]),
        ({"bias": "some"}, ["bias", "lora_only", "'some'"]),
        ({"init_lora_weights": "pizza"}, ["init_lora_weights", "'pizza'"]),
        ({"target_modules": []}, ["target_modules is empty", "c_attn"]),
        ({"target_modules": "("}, ["target_modules '('", "regular expression"]),
        ({"r": 0, "lora_dropout": 1}, ["r must be", "lora_dropout must be"]),
        ({"r": 3, "init_lora_weights": "orthogonal"}, ["even ranks", "'r' is 3"]),
        ({"r": 2, "rank_pattern": {"c_fc": 5}, "init_lora_weights": "orthogonal"}, ["even ranks", "'c_fc' is 5"]),
        ({"qkv": ["q", "q"]}, ["qkv must be some of q, k, v"]),
        ({"qkv": ["o"]}, ["qkv must be some of q, k, v"]),
        ({"qkv": ["q"], "init_lora_weights": "olora"}, ["qkv", "olora", "PEFT's file"]),
        ({"qkv": ["q"], "rank_pattern": {"c_fc": 5}}, ["qkv", "rank_pattern"]),
        ({"qkv": ["q"], "use_dora": True}, ["qkv and use_dora exclude each other"]),
        ({"init_lora_weights": "eva"}, ["eva needs activations on data", "PEFT"]),
        ({"layers_pattern": "h"}, ["layers_pattern", "layers_to_transform"]),
    ],
    ids=str,
)
def test_impossible_settings_are_refused_by_name(settings, words):
    assert_refused(lambda: lora.LoraConfig(**settings), *words)


@pytest.mark.parametrize("pattern", [r"(.*.*)*y", r"((\w|\.)+)+!"])
def test_an_endless_regular_expression_ends_within_seconds(pattern):
    started = time.monotonic()
    config = lora.LoraConfig(target_modules=pattern)
    assert_refused(lambda: config.targets("transformer.h.11.attn.c_attn.and.so.on"), "target_modules", "too long")
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"target_modules": ["q_proj"]}, ["'q_proj'", "c_attn, c_proj, c_fc"]),
        ({"target_modules": ["c_attn", "q_proj"]}, ["'q_proj'"]),
        ({"target_modules": ["attn"]}, ["transformer.h.0.attn", "no projection"]),
        ({"target_modules": ["ln_1"]}, ["transformer.h.0.ln_1", "no projection"]),
        ({"target_modules": r".*q_proj"}, ["q_proj", "c_attn"]),
        ({"target_modules": r"h\.0\.attn\.c_attn"}, ["c_attn"]),  # PEFT matches whole paths
        ({"modules_to_save": ["head"]}, ["modules_to_save", "'head'", "lm_head"]),
        ({"modules_to_save": ["c_attn"]}, ["modules_to_save", "c_attn"]),
        ({"modules_to_save": ["mlp"]}, ["modules_to_save", "mlp"]),
        ({"exclude_modules": ["c_attn"]}, ["exclude_modules and layers_to_transform leave none"]),
        ({"layers_to_transform": [2]}, ["exclude_modules and layers_to_transform leave none"]),
        ({"rank_pattern": {"c_attn": 37}}, ["r 37", "width, 36"]),
        ({"target_modules": ["c_fc"], "qkv": ["q"]}, ["c_attn, which is no target"]),
        ({"target_modules": ["c_attn", "lm_head"], "lora_bias": True}, ["lm_head has no bias"]),
        ({"target_modules": ["wte"], "trainable_token_indices": [4]}, ["trainable_token_indices", "transformer.wte"]),
        ({"target_modules": ["lm_head"], "trainable_token_indices": [4]}, ["trainable_token_indices", "lm_head"]),
        (
            {"target_modules": ["c_attn", "lm_head"], "init_lora_weights": "pissa"},
            ["pissa is for projections", "lm_head"],
        ),
    ],
    ids=str,
)
def test_targets_that_the_model_does_not_have_are_refused_and_leave_it_plain(model, settings, words):
    names = [name for name, _ in model.named_parameters()]
    assert_refused(lambda: lora.inject(model, lora.LoraConfig(**settings)), *words)
    assert [name for name, _ in model.named_parameters()] == names


def test_a_second_injection_is_refused(model):
    lora.inject(model, CONFIG)
    assert_refused(lambda: lora.inject(model, CONFIG), "LoRA already")


def test_a_plain_model_has_no_adapter_to_save(model, tmp_path):
    assert_refused(lambda: lora.save_adapter(model, tmp_path / "new"), "inject")
    assert not (tmp_path / "new").exists()


def test_an_unmerged_model_is_not_saved_without_its_adapter(model, tmp_path):
    lora.inject(model, CONFIG)
    assert_refused(lambda: model.save_pretrained(tmp_path / "new"), "merge")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "entries, words",
    [
        ({"peft_type": "IA3"}, ["'IA3'", "LORA"]),
        ({"peft_type": None}, ["None", "LORA"]),
        ({"target_parameters": ["c_attn.weight"]}, ["target_parameters", "not supported"]),
        ({"use_qalora": True}, ["use_qalora", "not supported"]),
        ({"lora_bias": True, "use_dora": True}, ["lora_bias and use_dora exclude each other"]),
        ({"lora_bias": True, "init_lora_weights": "pissa"}, ["lora_bias", "'pissa'"]),
        ({"layers_to_transform": 0, "target_modules": ".*c_attn"}, ["layers_to_transform needs names"]),
        ({"rank_pattern": {"(": 4}}, ["rank_pattern '('", "regular expression"]),
        ({"ensure_weight_tying": True, "modules_to_save": ["lm_head"]}, ["ensure_weight_tying", "merge it in PEFT"]),
        ({"ensure_weight_tying": True, "target_modules": ["wte"]}, ["ensure_weight_tying", "merge it in PEFT"]),
        ({"init_lora_weights": "loftq"}, ["loftq", "merge it in PEFT"]),
        ({"r": 0}, ["r must be"]),
        ({"r": "3"}, ["r must be", "'3'"]),
        ({"target_modules": [3]}, ["target_modules", "3"]),
        ({"modules_to_save": "lm_head"}, ["modules_to_save"]),
        ({"use_rslora": "no"}, ["use_rslora", "'no'"]),
    ],
    ids=str,
)
def test_a_configuration_that_cannot_be_used_is_refused_by_its_entry(model, adapter, entries, words):
    edit(adapter, **entries)
    assert_refused(lambda: lora.load_adapter(model, adapter), SETTINGS, *words)


def test_missing_and_damaged_files_are_refused_by_name(model, adapter):
    (adapter / WEIGHTS).write_bytes((adapter / WEIGHTS).read_bytes()[:-100])
    assert_refused(lambda: lora.load_adapter(model, adapter), WEIGHTS)
    (adapter / WEIGHTS).unlink()
    assert_refused(lambda: lora.load_adapter(model, adapter), WEIGHTS, "missing")
    (adapter / SETTINGS).write_text("{")
    assert_refused(lambda: lora.load_adapter(model, adapter), SETTINGS, "JSON")
    (adapter / SETTINGS).unlink()
    assert_refused(lambda: lora.load_adapter(model, adapter), str(adapter), SETTINGS)
    assert_refused(lambda: lora.load_adapter(model, adapter / "absent"), "absent")


@pytest.mark.parametrize(
    "size, words",
    [
        # PEFT's shapes: A [r, in], B [out, r]
        ({"n_embd": 24}, ["4 of another shape", "h.1.attn.c_attn.lora_B.weight [108, 3] instead of [72, 3]"]),
        ({"n_layer": 3}, ["2 missing", "transformer.h.2.attn.c_attn.lora_A.weight"]),
        ({"n_layer": 1}, ["2 unexpected", "transformer.h.1.attn.c_attn.lora_B.weight"]),
    ],
    ids=str,
)
def test_an_adapter_of_another_model_is_refused_by_its_tensors(adapter, tmp_path, size, words):
    other = GPT2LMHeadModel.from_pretrained(tiny.model_folder(tmp_path, seed=1, **size))
    assert_refused(lambda: lora.load_adapter(other, adapter), str(adapter), *words)


def test_tensors_of_numbers_that_are_no_floats_are_refused(model, adapter):
    tensors = safetensors.numpy.load_file(adapter / WEIGHTS)
    name = next(iter(tensors))
    safetensors.numpy.save_file(tensors | {name: tensors[name].astype(np.int32)}, adapter / WEIGHTS)
    assert_refused(lambda: lora.load_adapter(model, adapter), name)


@pytest.mark.parametrize("merged", [False, True])
def test_an_adapter_loaded_over_another_counts_alone_or_is_refused(base, tmp_path, merged):
    ids, adapters = tiny.random_ids(seed=4), []
    for seed, alpha in ((1, 7), (2, 21)):
        config = lora.LoraConfig(r=3, lora_alpha=alpha, target_modules=["c_attn"], init_lora_weights=False)
        adapters.append(lora.inject(GPT2LMHeadModel.from_pretrained(base), config, seed))
        lora.save_adapter(adapters[-1], tmp_path / str(seed))
    model = GPT2LMHeadModel.from_pretrained(base)
    lora.load_adapter(model, tmp_path / "1")
    if merged:
        lora.merge(model)
    try:
        lora.load_adapter(model, tmp_path / "2")
    except UserError:
        return
    with jt.no_grad():
        found, expected = model(ids).numpy(), adapters[1](ids).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)  # the contract's tolerance for logits


def test_an_adapter_is_refused_by_a_model_with_other_weights(adapter, tmp_path):
    other = GPT2LMHeadModel.from_pretrained(tiny.model_folder(tmp_path / "other", seed=2))
    assert_refused(lambda: lora.Adapters(other).load(adapter, "a"), str(adapter), "another base")
    assert_refused(lambda: lora.load_adapter(other, adapter), str(adapter), "another base")
    fresh = GPT2LMHeadModel(other.config)  # weights that nothing is known of: the adapter's shapes decide
    assert lora.load_adapter(fresh, adapter).r == CONFIG.r


def test_adapters_of_different_bases_are_not_added_up(adapter, base, tmp_path):
    other = GPT2LMHeadModel.from_pretrained(tiny.model_folder(tmp_path / "other", seed=2))
    lora.save_adapter(lora.inject(other, CONFIG), tmp_path / "foreign")
    both = {"ours": read_adapter(adapter), "foreign": read_adapter(tmp_path / "foreign")}
    assert_refused(lambda: combine(both, {"ours": 0.5, "foreign": 0.5}), "'ours'", "'foreign'", "different bases")
    both["foreign"].base = None  # as PEFT writes it
    assert combine(both, {"foreign": 0.5, "ours": 0.5}).base == fingerprint(open_model(base))


def test_a_layers_bias_that_is_stored_twice_is_the_same_or_refused(base, tmp_path):
    """As PEFT stores it with `bias: all` beside modules_to_save; what it replaced is of no use to anybody."""
    config = lora.LoraConfig(r=3, target_modules=["c_attn"], modules_to_save=["ln_f"], bias="all")
    lora.save_adapter(lora.inject(GPT2LMHeadModel.from_pretrained(base), config), tmp_path)
    tensors, norm = safetensors.numpy.load_file(tmp_path / WEIGHTS), "base_model.model.transformer.ln_f"
    tensors[f"{norm}.original_module.bias"] = tensors[f"{norm}.bias"] + 1
    for more, refused in ((0, False), (1, True)):
        twice = tensors | {f"{norm}.modules_to_save.bias": tensors[f"{norm}.bias"] + more}
        safetensors.numpy.save_file(twice, tmp_path / WEIGHTS)
        model = GPT2LMHeadModel.from_pretrained(base)
        if refused:
            assert_refused(lambda m=model: lora.load_adapter(m, tmp_path), "1 unexpected", "ln_f.modules_to_save.bias")
        else:
            lora.load_adapter(model, tmp_path)
