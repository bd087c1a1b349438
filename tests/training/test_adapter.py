"""What is typed of an adapter becomes PEFT's settings, or one line."""

import pytest
from adapters import assert_refused

from gpt2_jittor import GPT2Config
from training.adapter import adapter_config, check_adapter
from training.arguments import TrainingArguments

MODEL = GPT2Config(n_layer=2, n_embd=36, n_head=3)


def settings(**typed) -> dict:
    return adapter_config(TrainingArguments(**typed), classifies=False).to_dict()


@pytest.mark.parametrize(
    "typed, expected",
    [
        ({}, {"target_modules": ["c_attn", "c_proj", "c_fc"], "r": 8, "init_lora_weights": True}),
        ({"lora_targets": [r".*\.c_attn"]}, {"target_modules": r".*\.c_attn"}),
        ({"lora_targets": ["all-linear"]}, {"target_modules": "all-linear"}),
        ({"lora_targets": ["v", "q"]}, {"target_modules": ["c_attn"], "r": 16, "lora_alpha": 32.0}),
        (
            {"lora_targets": ["q", "c_fc", "v"]},
            {"target_modules": ["c_attn", "c_fc"], "r": 8, "rank_pattern": {"c_attn": 16}},
        ),
        ({"lora_exclude": ["h.0.attn.c_attn"]}, {"exclude_modules": ["h.0.attn.c_attn"]}),
        ({"lora_exclude": [r".*h\.0\..*"]}, {"exclude_modules": r".*h\.0\..*"}),
        ({"lora_layers": [0]}, {"layers_to_transform": [0]}),
        (
            {"lora_rank_pattern": ["c_attn=16", "h.0.mlp.c_fc=2"], "lora_alpha_pattern": ["c_attn=1e1"]},
            {"rank_pattern": {"c_attn": 16, "h.0.mlp.c_fc": 2}, "alpha_pattern": {"c_attn": 10.0}},
        ),
        ({"lora_dora": True, "lora_init": "gaussian"}, {"use_dora": True, "init_lora_weights": "gaussian"}),
        ({"lora_b_bias": True, "lora_init": "random"}, {"lora_bias": True, "init_lora_weights": False}),
        ({"lora_init": "pissa_niter_8"}, {"init_lora_weights": "pissa_niter_8"}),
    ],
    ids=str,
)
def test_options_are_pefts_settings(typed, expected):
    found = settings(**typed)
    assert {name: found.get(name) for name in expected} == expected
    check_adapter(TrainingArguments(**typed), False, MODEL)


def test_a_classifiers_head_is_trained_whole():
    found = adapter_config(TrainingArguments(lora_modules_to_save=["ln_f"]), True, added=[7], base="gpt2").to_dict()
    assert found["modules_to_save"] == ["score", "ln_f"] and found["task_type"] == "SEQ_CLS"
    assert found["trainable_token_indices"] == [7] and found["base_model_name_or_path"] == "gpt2"


@pytest.mark.parametrize(
    "typed, words",
    [
        ({"lora_r": 37}, ["--lora-r 37", "width, 36"]),
        ({"lora_rank_pattern": ["c_attn=37"]}, ["--lora-rank-pattern 37", "width, 36"]),
        ({"lora_rank_pattern": ["c_attn"]}, ["--lora-rank-pattern takes name=number", "'c_attn'"]),
        ({"lora_rank_pattern": ["=4"]}, ["--lora-rank-pattern takes name=number"]),
        ({"lora_rank_pattern": ["c_attn=4.5"]}, ["--lora-rank-pattern takes name=number", "4.5"]),
        ({"lora_alpha_pattern": ["c_attn=nan"]}, ["alpha_pattern", "nan"]),
        ({"lora_targets": ["q", "c_attn"]}, ["--lora-targets: q are parts of c_attn"]),
        ({"lora_targets": ["q_proj"]}, ["'q_proj'", "c_attn, c_proj, c_fc"]),
        ({"lora_layers": [2]}, ["exclude_modules and layers_to_transform leave none"]),
        ({"lora_init": "eva"}, ["eva needs activations on data", "PEFT"]),
        ({"lora_init": "true"}, ["--lora-init must be one of default, random, gaussian", "'true'"]),
        ({"lora_rank_pattern": ["c_atn=4"]}, ["rank_pattern: no target is called 'c_atn'"]),
        ({"lora_alpha_pattern": ["lm_head=4"]}, ["alpha_pattern: no target is called 'lm_head'"]),
        ({"lora_rank_pattern": ["c_attn=4", "c_attn=8"]}, ["--lora-rank-pattern names c_attn twice"]),
        ({"lora_exclude": ["typo", "c_fc"]}, ["exclude_modules: nothing in the model is called 'typo'"]),
        ({"lora_layers": [0, 99]}, ["layers_to_transform: the model has no block 99"]),
        ({"lora_targets": ["q", "h.0.attn.c_attn"]}, ["--lora-targets: q are parts of c_attn"]),
        (
            {"lora_targets": ["q"], "lora_modules_to_save": ["c_attn"]},
            ["qkv names parts of c_attn, which is no target"],
        ),
        ({"lora_targets": ["wte"], "added_tokens": ["<A>"]}, ["trainable_token_indices", "transformer.wte"]),
        ({"lora_init": "orthogonal", "lora_r": 3}, ["even ranks"]),
        ({"lora_init": "pissa", "lora_targets": ["q"]}, ["qkv cannot begin with a part of the base"]),
        ({"lora_init": "pissa", "lora_targets": ["c_attn", "lm_head"]}, ["pissa is for projections", "lm_head"]),
        ({"lora_dora": True, "lora_b_bias": True}, ["lora_bias and use_dora exclude each other"]),
        ({"lora_b_bias": True, "lora_targets": ["wte"]}, ["lora_bias", "wte"]),
    ],
    ids=str,
)
def test_what_cannot_be_is_told_before_a_model_is_read(typed, words):
    assert_refused(lambda: check_adapter(TrainingArguments(**typed), False, MODEL), *words)
