"""Settings of LoRA to test with, and models of PEFT's and ours that have them."""

import numpy as np
import peft
import pytest
import tiny
import torch
import transformers
from adapters import train_at_random

import lora
from gpt2_jittor import GPT2LMHeadModel

IDS = tiny.random_ids(seed=5)

SETTINGS = {
    "one name": {},
    "all projections": {"target_modules": ["c_attn", "c_proj", "c_fc"]},
    "dotted names": {"target_modules": ["mlp.c_proj", "attn.c_proj"]},
    "whole path": {"target_modules": ["transformer.h.1.attn.c_attn", "h.0.mlp.c_fc"]},
    "regular expression": {"target_modules": r"transformer\.h\.1\.(attn\.c_attn|mlp\.c_fc)"},
    "without some": {"target_modules": ["c_attn", "c_proj"], "exclude_modules": ["h.0.attn.c_proj", "h.1.mlp.c_proj"]},
    "some blocks": {"target_modules": ["c_attn", "c_fc"], "layers_to_transform": [1], "layers_pattern": "h"},
    "head": {"target_modules": ["c_attn", "lm_head"]},
    "embeddings": {"target_modules": ["c_fc", "wte", "wpe"]},
    "rslora": {"use_rslora": True},
    "patterns": {
        "target_modules": ["c_attn", "c_proj", "c_fc"],
        "rank_pattern": {"c_attn": 5, r"h\.1\.mlp\.c_proj": 2},
        "alpha_pattern": {"h.0.mlp.c_fc": 3, "c_proj": 9},
        "use_rslora": True,
    },
    "dora": {"use_dora": True, "target_modules": ["c_attn", "c_proj", "c_fc"]},
    "dora everywhere": {"use_dora": True, "target_modules": ["c_attn", "lm_head", "wte"]},
    "bias of B": {"lora_bias": True, "target_modules": ["c_attn", "c_fc"]},
    "bias all": {"bias": "all"},
    "bias lora_only": {"bias": "lora_only", "target_modules": ["c_proj"]},
    "lm_head": {"modules_to_save": ["lm_head"]},
    "ln_f": {"modules_to_save": ["ln_f"]},
    "wte": {"modules_to_save": ["wte"]},
    "lm_head and wte": {"modules_to_save": ["lm_head", "wte"]},
    "bias all and lm_head": {"bias": "all", "modules_to_save": ["lm_head"]},
    "bias all and ln_f": {"bias": "all", "modules_to_save": ["ln_f"]},
}
every_setting = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
every_target = pytest.mark.parametrize("settings", list(SETTINGS.values())[:9], ids=list(SETTINGS)[:9])


def with_defaults(settings: dict) -> dict:
    return {"r": 3, "lora_alpha": 7, "target_modules": ["c_attn"]} | settings


def peft_model(base, settings: dict, seed: int = 2):
    """PEFT's model, everything trained moved at random."""
    config = peft.LoraConfig(fan_in_fan_out=True, task_type="CAUSAL_LM", **with_defaults(settings))
    torch.manual_seed(seed)
    model = peft.get_peft_model(transformers.GPT2LMHeadModel.from_pretrained(base), config)
    return tiny.moved(model)


def our_model(base, settings: dict, seed: int = 3):
    """Ours, everything trained moved at random."""
    model = lora.inject(GPT2LMHeadModel.from_pretrained(base), lora.LoraConfig(**with_defaults(settings)))
    return train_at_random(model, np.random.default_rng(seed))


def assert_close(found, expected, tolerance, name=""):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance, err_msg=name)
