"""What an update leaves behind in Jittor: nothing. At 100,000 live operators it would execute each when it is made."""

import contextlib

import numpy as np
import pytest
from updates import draw

from gpt2_jittor.checkpoint.locate import NANO
from gpt2_jittor.model.lm import GPT2LMHeadModel
from gpt2_jittor.ops.fused import composed_only
from gpt2_jittor.runtime.backend import jt
from lora import LoraConfig, inject, trainable
from training import loss_scale
from training.checkpoint import Progress
from training.optimizer import AdamW
from training.step import loss_and_gradients, update

ALL = ["c_attn", "c_proj", "c_fc"]
SETTINGS = {
    "all projections": {"target_modules": ALL},
    "q and v": {"qkv": ["q", "v"]},
    "B's bias, of q and v": {"qkv": ["q", "v"], "lora_bias": True},
    "DoRA": {"target_modules": ALL, "use_dora": True},
    "the embeddings": {"target_modules": ["c_attn", "wte", "wpe"]},
    "the head": {"target_modules": ["c_attn", "lm_head"]},
    "PiSSA": {"target_modules": ALL, "init_lora_weights": "pissa"},
    "biases": {"bias": "all"},
    "layers saved whole": {"modules_to_save": ["wte", "ln_f"]},
    "tokens": {"trainable_token_indices": [3, 500]},
}


def check(model, batches, **how) -> None:
    """Updates do not change how many operators and arrays live."""
    optimizer, lived = AdamW(trainable(model.train())), []
    for step in range(6):
        update(model, optimizer, batches, 1e-3, 1.0, (0, step), **how)
        lived.append((jt.number_of_lived_ops(), jt.number_of_lived_vars()))
    assert lived[-1] == lived[2]  # what is made once was made


@pytest.mark.parametrize("by", [contextlib.nullcontext, composed_only], ids=["fused", "composed"])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_an_update_leaves_nothing_behind(settings, by, rng):
    model = inject(GPT2LMHeadModel.from_pretrained(NANO), LoraConfig(r=2, lora_dropout=0.1, **settings))
    with by():
        check(model, [draw(rng, 2, 12, 7)])


@pytest.mark.parametrize("how", ["full tuning", "three batches", "blocks again", "a loss scale", "int8"])
def test_nor_does_one_of_another_kind(how, rng):
    model = GPT2LMHeadModel.from_pretrained(NANO, base="int8" if how == "int8" else "fp32")
    if how != "full tuning":
        model = inject(model, LoraConfig(r=2, lora_dropout=0.1, qkv=["q", "v"]))
    model.transformer.gradient_checkpointing = how == "blocks again"
    scale = loss_scale.as_var(Progress(loss_scale=2.0)) if how == "a loss scale" else None
    check(model, [draw(rng, 2, 12, 7)] * (3 if how == "three batches" else 1), loss_scale=scale)


def test_what_is_frozen_has_no_gradient(rng):
    """Made at once, every operator is executed, needed or not: a half type has no kernel for a weight's gradient."""
    model = inject(GPT2LMHeadModel.from_pretrained(NANO), LoraConfig(r=2)).to_precision("bf16")
    parameters, batches = [parameter for _, parameter in trainable(model)], [draw(rng, 2, 12, 7)]
    found = []
    for lazily in (1, 0):
        with jt.flag_scope(lazy_execution=lazily):
            loss, gradients = loss_and_gradients(model, batches, parameters)
            found.append([loss.item(), *(np.linalg.norm(gradient.numpy()) for gradient in gradients)])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-6)
