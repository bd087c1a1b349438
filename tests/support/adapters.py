"""Adapters to test with: made by PEFT or by us, damaged, loaded by either, and refused."""

import json
import re
import sys

import numpy as np
import peft
import pytest
import tiny
import torch
import transformers
from references import LOGITS, torch_logits

import lora
from common.errors import UserError
from common.options import option_name
from gpt2_jittor import GPT2LMHeadModel

SETTINGS = "adapter_config.json"
PREFIX = "base_model.model.transformer.h.0.attn.c_attn"  # of a projection's keys in PEFT's files


def assert_refused(call, *words) -> str:
    """Runs `call`, which must end in a UserError that a command tells in one line with all `words`; returns it."""
    with pytest.raises(UserError) as caught:
        call()
    message = caught.value.with_names(option_name)
    assert "\n" not in message
    assert [word for word in words if word not in message] == [], message
    return message


def edit(folder, **entries) -> None:
    """Changes entries of an adapter's configuration."""
    path = folder / SETTINGS
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def run_lora(monkeypatch, *arguments) -> None:
    """`python -m lora <arguments>`, in this process."""
    from lora.__main__ import main

    monkeypatch.setattr(sys, "argv", ["lora", *map(str, arguments)])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # the command sets it: put back after the test
    main()


def our_name(name: str) -> str:
    """PEFT's name of a parameter without its wrappers, which is ours."""
    name = re.sub(r"base_model\.model\.|\.default|\.base_layer|\.modules_to_save", "", name)
    return name.removesuffix(".weight") if name.endswith("magnitude_vector.weight") else name


def values_of(model) -> dict[str, np.ndarray]:
    """Every parameter of a model of ours, copied."""
    return {name: parameter.numpy().copy() for name, parameter in model.named_parameters()}


def train_at_random(model, rng):
    """Our model, everything trained moved at random: a new B is zero and would hide what goes wrong."""
    for _, parameter in lora.trainable(model):
        parameter.assign(parameter.numpy() + 0.2 * rng.standard_normal(parameter.shape, dtype=np.float32))
    return model


def make_adapter(base, folder, seed: int, settings):
    """An adapter of PEFT's own, everything trained moved at random; returns its folder."""
    model = transformers.GPT2LMHeadModel.from_pretrained(base)
    model = peft.get_peft_model(model, peft.LoraConfig(fan_in_fan_out=True, task_type="CAUSAL_LM", **settings))
    torch.manual_seed(seed)
    tiny.moved(model).save_pretrained(folder)
    return folder


def with_adapter(base, folder) -> GPT2LMHeadModel:
    """Our model with the adapter."""
    model = GPT2LMHeadModel.from_pretrained(base)
    lora.load_adapter(model, folder)
    return model


def with_adapters(base, folders) -> lora.Adapters:
    """Our model with several adapters, by their names."""
    adapters = lora.Adapters(GPT2LMHeadModel.from_pretrained(base))
    for name, folder in folders.items():
        adapters.load(folder, name)
    return adapters


def plain_logits(base, ids) -> np.ndarray:
    """transformers', without an adapter."""
    return torch_logits(transformers.GPT2LMHeadModel.from_pretrained(base).eval(), ids)


def pefts_logits(base, folder, ids) -> np.ndarray:
    """PEFT's, with the adapter."""
    plain = transformers.GPT2LMHeadModel.from_pretrained(base)
    return torch_logits(peft.PeftModel.from_pretrained(plain, folder).eval(), ids)


def assert_logits(found, expected, plain) -> None:
    """The expected logits, which are not those without the adapter."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=LOGITS)
    assert np.abs(expected - plain).max() > 100 * LOGITS  # the adapter acts
