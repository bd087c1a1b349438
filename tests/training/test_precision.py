"""Training in float16 and bfloat16: beside float32, the loss scale beside torch's, skipped updates, resuming.

On the CPU, where what is no product runs in its kernels; `tests/cuda_emulation` has the same with CUDA's operators.
"""

import json
import math

import numpy as np
import pytest
import safetensors.numpy
import torch
from halves import EPSILON
from runs import arguments, build_world, metrics, prepare, run
from updates import adapted, draw

from common.errors import UserError
from training import loss_scale
from training import step as step_module
from training import trainer as trainer_module
from training.checkpoint import Progress
from training.setup import read_inputs
from training.step import loss_and_gradients

pytestmark = pytest.mark.long  # each precision has operators of its own, which are compiled first


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return build_world(tmp_path_factory.mktemp("halves"))


@pytest.mark.parametrize("precision", EPSILON)
@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_ten_steps_stay_close_to_those_in_float32(world, tmp_path, precision, tuning):
    losses = []
    for name in ("fp32", precision):
        settings = {"max_steps": 10, "eval_every": 10, "tuning": tuning, "learning_rate": 2e-3}
        run(arguments(world, tmp_path / name, precision=name, **settings))
        losses.append([record["loss"] for record in metrics(tmp_path / name)])
    assert losses[0] != losses[1]
    # each loss is off by a product's rounding, and the weights by what it made of ten gradients' signs
    np.testing.assert_allclose(losses[1], losses[0], rtol=3 * EPSILON[precision])
    file = "adapter_model" if tuning == "lora" else "model"
    saved = safetensors.numpy.load_file(tmp_path / precision / "checkpoint-10" / f"{file}.safetensors")
    assert {array.dtype for array in saved.values()} == {np.dtype(np.float32)}


def test_the_loss_scale_is_torchs(rng, monkeypatch):
    monkeypatch.setattr(loss_scale, "INTERVAL", 3)
    weight = torch.nn.Parameter(torch.ones(1))
    theirs = torch.amp.GradScaler("cpu", growth_interval=3)
    optimizer = torch.optim.SGD([weight], lr=0.0)
    progress = Progress(loss_scale=loss_scale.START)
    # 12 overflows at most: after 16 the scale could be 1, its least, which no gradient is blamed on
    for overflow in rng.permutation(np.arange(60) < 12):
        theirs.scale(weight.sum()).backward()
        assert progress.loss_scale == theirs.get_scale()
        if overflow:
            weight.grad.fill_(math.inf)
        theirs.step(optimizer)
        theirs.update()
        optimizer.zero_grad()
        assert loss_scale.overflowed(progress, 1.0, math.inf if overflow else 1.0) == overflow
        (loss_scale.shrink if overflow else loss_scale.grow)(progress)
    assert (loss_scale.START, loss_scale.FACTOR) == (65536.0, 2.0)


def test_the_loss_scale_has_the_constants_of_torch():
    theirs = torch.amp.GradScaler("cpu")
    assert theirs.get_scale() == loss_scale.START and theirs.get_growth_interval() == loss_scale.INTERVAL
    assert theirs.get_growth_factor() == 1 / theirs.get_backoff_factor() == loss_scale.FACTOR


def test_gradients_that_float16_would_lose_are_kept_by_the_scale(rng):
    """A loss that is one part of many has gradients that are 0 in float16."""
    model, parameters = adapted()
    batch, parts = draw(rng, 1, 20, 15), 10**9
    _, exact = loss_and_gradients(model, [batch], parameters, parts)
    model.to_precision("fp16")
    _, lost = loss_and_gradients(model, [batch], parameters, parts)
    scale = 2.0**20
    _, scaled = loss_and_gradients(model, [batch], parameters, parts, loss_scale.as_var(Progress(loss_scale=scale)))
    whole, nothing, kept = (np.concatenate([g.numpy().ravel() for g in some]) for some in (exact, lost, scaled))
    assert np.linalg.norm(whole) > 0 and not nothing.any()
    error = np.linalg.norm(kept / scale - whole) / np.linalg.norm(whole)
    assert error < 40 * EPSILON["fp16"]  # as many products behind each other, there and back


def overflowing(monkeypatch, start: float = 2.0**30) -> None:
    """A run begins with a scale that is too large for its gradients."""
    monkeypatch.setattr(loss_scale, "START", start)


def test_an_update_whose_gradients_overflow_is_skipped_noted_and_halves_the_scale(world, tmp_path, monkeypatch, capsys):
    overflowing(monkeypatch)
    trainer = run(arguments(world, tmp_path, precision="fp16", max_steps=24, eval_every=24, save_every=1))
    records = metrics(tmp_path)
    skipped = [record["step"] for record in records if record.get("skipped")]
    assert skipped[:3] == [1, 2, 3] and 3 <= len(skipped) < 20
    assert [record["step"] for record in records] == list(range(1, 25))
    scale = 2.0**30
    for record in records:
        assert record["loss_scale"] == scale and math.isfinite(record["loss"])
        assert (record["grad_norm"] is None) == bool(record.get("skipped"))
        scale /= 2 if record.get("skipped") else 1
    assert trainer.progress.loss_scale == scale
    assert trainer.progress.skipped == len(skipped) and trainer.optimizer.steps == 24 - len(skipped)
    said = capsys.readouterr().out
    assert f"step 1 skipped: gradients beyond float16, the loss scale is now {2**29:,}; epoch 1 batch 1: " in said
    assert json.loads((tmp_path / "checkpoint-24" / "progress.json").read_text())["loss_scale"] == scale


def test_a_skipped_update_changes_neither_weights_nor_moments(world, tmp_path, monkeypatch):
    overflowing(monkeypatch)
    trainer = prepare(arguments(world, tmp_path, precision="fp16", max_steps=1))
    before = [value.numpy() for value in (*trainer.optimizer.parameters, *trainer.optimizer.first)]
    trainer.run()
    assert trainer.progress.skipped == 1
    after = [value.numpy() for value in (*trainer.optimizer.parameters, *trainer.optimizer.first)]
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(new, old)


def test_the_scale_leaves_norm_clipping_and_moments_as_they_are(world, tmp_path, monkeypatch):
    found = []
    for start in (2.0**10, 2.0**13):
        overflowing(monkeypatch, start)
        trainer = run(arguments(world, tmp_path / str(start), precision="fp16", max_steps=1, max_grad_norm=0.1))
        first = np.concatenate([moment.numpy().ravel() for moment in trainer.optimizer.first])
        found.append((metrics(tmp_path / str(start))[0]["grad_norm"], first))
    (norm, first), (other_norm, other_first) = found
    assert norm > 0.1  # so that clipping does something
    assert other_norm == pytest.approx(norm, rel=10 * EPSILON["fp16"])
    # Adam's moments, unlike its updates, would show gradients that are still scaled: a tenth of what was clipped to 0.1
    assert np.linalg.norm(first) == pytest.approx(0.1 * 0.1, rel=1e-3)
    assert np.linalg.norm(other_first - first) < 10 * EPSILON["fp16"] * np.linalg.norm(first)


def test_a_run_in_float16_resumes_to_the_same_end(world, tmp_path, monkeypatch):
    """Skipped updates and a growing scale on both sides of the interruption."""
    overflowing(monkeypatch)
    monkeypatch.setattr(loss_scale, "INTERVAL", 3)
    settings = {"precision": "fp16", "max_steps": 30, "eval_every": 10, "save_every": 1}
    run(arguments(world, tmp_path / "whole", **settings))
    scales = [record["loss_scale"] for record in metrics(tmp_path / "whole")]
    assert any(after > before for before, after in zip(scales[20:], scales[21:], strict=False))

    original, cuts = trainer_module.Trainer._update, [2, 20]

    def stopping(self):
        if cuts and self.progress.step == cuts[0]:
            cuts.pop(0)
            raise RuntimeError("a power cut")
        original(self)

    monkeypatch.setattr(trainer_module.Trainer, "_update", stopping)
    for resume in (False, True):
        with pytest.raises(RuntimeError):
            run(arguments(world, tmp_path / "cut", **settings), resume)
    run(arguments(world, tmp_path / "cut", **settings), resume=True)
    for file in ("adapter_model.safetensors", "optimizer.safetensors", "progress.json"):
        name = f"checkpoint-30/{file}"
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), file
    timing = {"seconds", "tokens_per_second"}
    found, expected = (
        [{k: v for k, v in record.items() if k not in timing} for record in metrics(tmp_path / part)]
        for part in ("cut", "whole")
    )
    assert found == expected


def spoil(monkeypatch, loss: float, norm: float) -> None:
    """Every update's loss and gradients are multiplied by these."""
    original = step_module.loss_and_gradients

    def spoiled(*given):
        found, gradients = original(*given)
        return found * loss, [gradient * norm for gradient in gradients]

    monkeypatch.setattr(step_module, "loss_and_gradients", spoiled)


@pytest.mark.parametrize(
    ("loss", "norm", "start", "what"),
    [(math.nan, math.nan, 2.0**16, "loss nan"), (1.0, math.nan, 1.0, "gradient norm nan")],
)
def test_what_is_not_the_scales_fault_ends_the_run(world, tmp_path, monkeypatch, loss, norm, start, what):
    overflowing(monkeypatch, start)
    spoil(monkeypatch, loss, norm)
    with pytest.raises(UserError, match=f"{what} at step 1 .*learning_rate, or precision bf16") as caught:
        run(arguments(world, tmp_path, precision="fp16", max_steps=2))
    assert "\n" not in str(caught.value) and metrics(tmp_path) == []


def test_a_base_model_that_leaves_float16_is_told_apart_from_a_damaged_one(world, tmp_path):
    trainer = prepare(arguments(world, tmp_path, precision="fp16", max_steps=2))
    bias = trainer.model.transformer.h[0].mlp.c_fc.bias  # float32: the next product finds it beyond float16
    bias.assign(np.full(bias.shape, 1e5, np.float32))
    bias.stop_grad()
    with pytest.raises(UserError, match="before the first step: .*float16; use precision bf16"):
        trainer.run()


def test_bf16_has_no_loss_scale(world, tmp_path):
    trainer = run(arguments(world, tmp_path, precision="bf16", max_steps=1))
    assert trainer.progress.loss_scale is None and "loss_scale" not in metrics(tmp_path)[0]


def test_a_run_is_not_taken_up_again_in_another_precision(world, tmp_path):
    run(arguments(world, tmp_path, precision="bf16", max_steps=1))
    with pytest.raises(UserError, match="it computed in bf16, this would in fp32: give precision bf16"):
        prepare(arguments(world, tmp_path, max_steps=2), resume=True)


def test_the_precision_stands_in_the_arguments_of_a_run(world, tmp_path):
    given = arguments(world, tmp_path, precision="fp16", max_steps=1)
    given.save(tmp_path / "arguments.yaml")
    assert "precision: fp16" in (tmp_path / "arguments.yaml").read_text()
    assert read_inputs(given, say=lambda text: None).arguments.precision == "fp16"
