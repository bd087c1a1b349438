"""Gradient checkpointing: the same losses and gradients to the bit, with less memory."""

import functools
import os
import subprocess
import sys

import numpy as np
import pytest
import tiny

from gpt2_jittor import GPT2LMHeadModel
from gpt2_jittor.ops.dropout import seeds
from gpt2_jittor.runtime.backend import jt
from lora import LoraConfig, inject, trainable

SETTINGS = {
    "lora": {"r": 3, "lora_alpha": 8, "lora_dropout": 0.2, "target_modules": ["c_attn", "c_proj", "c_fc"]},
    "one block": {"r": 3, "target_modules": ["c_attn"], "layers_to_transform": [1]},
    "dora": {"r": 3, "target_modules": ["c_attn", "c_fc"], "use_dora": True, "bias": "lora_only"},
    "all weights": None,
}


def built(folder, settings):
    model = GPT2LMHeadModel.from_pretrained(folder)
    if settings:
        inject(model, LoraConfig(init_lora_weights=False, **settings), seed=3)
        return model.train(), [parameter for _, parameter in trainable(model)]
    return model.train(), list(model.parameters())


def losses_and_gradients(folder, settings, ids, checkpointing: bool) -> list[np.ndarray]:
    model, parameters = built(folder, settings)
    model.transformer.gradient_checkpointing = checkpointing
    seeds.restart(0, 1)
    loss = model.loss(ids, ids)
    drawn = seeds.state()
    gradients = jt.grad(loss, parameters)
    found = [loss.numpy(), *(each.numpy() for each in gradients)]
    assert seeds.state() == drawn  # the backward pass draws nothing from the stream
    return found


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_the_same_to_the_bit(settings, tmp_path, rng):
    folder = tiny.model_folder(tmp_path, seed=4, dropout=0.2)
    ids = rng.integers(0, 301, (3, 19))
    kept = losses_and_gradients(folder, settings, ids, False)
    again = losses_and_gradients(folder, settings, ids, True)
    for first, second in zip(kept, again, strict=True):
        np.testing.assert_array_equal(second, first)
    assert all(np.abs(each).max() > 0 for each in kept[:3])


MEASURED = """
import sys
from gpt2_jittor.runtime import runtime
runtime.prepare("cpu")
import numpy as np
from benchmarks.worker import most_mb
from gpt2_jittor import GPT2LMHeadModel
from gpt2_jittor.checkpoint.config import GPT2Config
from gpt2_jittor.runtime.backend import jt
from lora import LoraConfig, inject, trainable
model = GPT2LMHeadModel(GPT2Config(n_embd=128, n_layer=16, n_head=2, n_positions=512, vocab_size=64))
inject(model, LoraConfig(r=2, target_modules=["c_attn"])).train()
model.transformer.gradient_checkpointing = sys.argv[1] == "1"
ids = np.random.default_rng(0).integers(0, 64, (8, 512))
for _ in range(2):
    before = most_mb()
    jt.sync(jt.grad(model.loss(ids, ids), [parameter for _, parameter in trainable(model)]))
print(most_mb())
"""


def test_less_memory():
    """16 blocks of 8 x 512 tokens, 128 wide: 2 MB for what goes into one, about 25 for what is made in it."""
    paths = {"PYTHONPATH": ".:tests/support"}
    taken = [
        float(
            subprocess.run(
                [sys.executable, "-c", MEASURED, flag],
                env=os.environ | paths,
                capture_output=True,
                text=True,
                check=True,
            ).stdout.split()[-1]
        )
        for flag in "01"
    ]
    assert taken[1] < taken[0] - 250, taken


def test_the_last_projection_of_a_block_is_not_made_again(tmp_path, rng):
    """Nothing that the gradients need comes of it."""
    from benchmarks import profiling

    folder, ids = tiny.model_folder(tmp_path, seed=4), rng.integers(0, 301, (3, 19))
    counts = []
    for checkpointing in (False, True):
        work = functools.partial(losses_and_gradients, folder, SETTINGS["lora"], ids, checkpointing)
        found = profiling.operators(work)
        made = [int(row["Count"]) for row in found if profiling.description(row["Name"]) == "lora_forward"]
        counts.append(sum(made))
    layers = tiny.SIZES["n_layer"]
    assert counts == [4 * layers, 7 * layers]
