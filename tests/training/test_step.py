"""An update: gradients over several batches, in the memory of one; what decides it, and when it is not made."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from places import IMPORTS
from updates import adapted, draw

from datasets.batches import Batch
from gpt2_jittor.checkpoint.locate import NANO
from gpt2_jittor.model.lm import GPT2LMHeadModel
from gpt2_jittor.runtime.backend import jt
from lora import LoraConfig, inject, trainable
from training.optimizer import AdamW
from training.step import loss_and_gradients, update


def test_batches_count_by_what_they_score(rng):
    model, parameters = adapted()
    parts = [draw(rng, 1, 20, 3), draw(rng, 2, 20, 15)]
    whole = Batch(*(np.concatenate([getattr(part, name) for part in parts]) for name in (
        "input_ids", "labels", "attention_mask")), 60, 33)  # fmt: skip
    loss, gradients = loss_and_gradients(model, parts, parameters)
    expected_loss, expected = loss_and_gradients(model, [whole], parameters)
    np.testing.assert_allclose(loss.item(), expected_loss.item(), rtol=1e-5)
    for found, right in zip(gradients, expected, strict=True):
        error = np.linalg.norm(found.numpy() - right.numpy()) / np.linalg.norm(right.numpy())
        assert error < 1e-4  # float32 sums of some hundred terms, in another order


def updated(batch: Batch, step: int, learning_rate: float = 1e-3, **settings):
    """The result of one update with dropout, and the parameters after it."""
    config = LoraConfig(r=4, lora_dropout=0.5, target_modules=["c_attn"], init_lora_weights=False)
    model = inject(GPT2LMHeadModel.from_pretrained(NANO), config).train()
    optimizer = AdamW(trainable(model))
    result = update(model, optimizer, [batch], learning_rate, 1.0, dropout_seed=(7, step), **settings)
    return result, [parameter.numpy() for parameter in optimizer.parameters]


def test_an_update_follows_from_its_seed_and_step_alone(rng):
    batch = draw(rng, 2, 20, 15)
    (first, values), (again, same), (other, _) = (updated(batch, step) for step in (3, 3, 4))
    assert (first.loss, first.grad_norm) == (again.loss, again.grad_norm) and other.loss != first.loss
    assert first.applied and first.finite
    for value, expected in zip(same, values, strict=True):
        np.testing.assert_array_equal(value, expected)


def test_an_update_that_is_not_finite_is_made_unless_it_is_to_be_skipped(rng):
    batch = draw(rng, 2, 20, 15)
    _, before = updated(batch, 3, learning_rate=0.0)
    infinite = jt.array(np.array([np.inf, np.inf], np.float32))[:1]
    for skip in (True, False):
        result, after = updated(batch, 3, loss_scale=infinite, skip_nonfinite=skip)
        assert not result.finite and result.applied != skip and np.isfinite(result.loss)
        assert skip == all((old == new).all() for old, new in zip(before, after, strict=True))


MEMORY = """
import numpy as np
from updates import adapted, draw
from benchmarks.worker import most_mb
from gpt2_jittor.runtime.backend import jt
from training.step import loss_and_gradients

rng = np.random.default_rng(0)
model, parameters = adapted()
jt.sync_all()
seen = [most_mb()]
for count in (2, 8):
    loss_and_gradients(model, [draw(rng, 8, 256, 255) for _ in range(count)], parameters)
    seen.append(most_mb())
print(*seen)
"""


GROWING = """
import sys
import numpy as np
from updates import adapted, draw
from benchmarks.worker import most_mb
from lora import trainable
from training.optimizer import AdamW
from training.step import update

model, _ = adapted()
optimizer = AdamW(trainable(model.train()))
for step, time in enumerate(map(int, sys.argv[1:])):
    update(model, optimizer, [draw(np.random.default_rng(0), 8, time, time // 2)], 1e-4, 1.0, dropout_seed=(0, step))
print(most_mb())
"""


def printed(program: str, *arguments: int) -> list[float]:
    """What a process prints."""
    line, environment = [sys.executable, "-c", program, *map(str, arguments)], os.environ | {"PYTHONPATH": IMPORTS}
    result = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return [float(number) for number in result.stdout.split()]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells what was resident")
def test_more_batches_take_no_more_memory():
    before, with_two, with_eight = printed(MEMORY)
    assert with_two - before > 40
    assert with_eight - with_two < 0.3 * (with_two - before)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells what was resident")
def test_a_batch_that_is_larger_than_those_before_takes_no_more_memory_than_alone():
    (alone,), (grown,) = printed(GROWING, 500), printed(GROWING, *range(200, 501, 50))
    assert grown < alone + 80  # pools that keep what each size has left take 170 MB more; 30 come and go by themselves
