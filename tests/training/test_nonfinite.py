"""Updates whose loss or gradients are not finite: named, and skipped where that was asked for."""

import math

import numpy as np
import pytest
import safetensors.numpy
from runs import arguments, build_world, metrics, prepare, run

from common.errors import UserError
from training import step as step_module
from training import trainer as trainer_module
from training.curves import read_run


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return build_world(tmp_path_factory.mktemp("nonfinite"))


def spoil_losses_of(monkeypatch, step: int) -> None:
    """Update `step`, counted from 0, has a loss of NaN, and so have its gradients."""
    gradients, update, at = step_module.loss_and_gradients, trainer_module.Trainer._update, {}

    def remembered(self):
        at["step"] = self.progress.step
        update(self)

    def spoiled(*arguments):
        loss, found = gradients(*arguments)
        return (loss * math.nan, [g * math.nan for g in found]) if at["step"] == step else (loss, found)

    monkeypatch.setattr(trainer_module.Trainer, "_update", remembered)
    monkeypatch.setattr(step_module, "loss_and_gradients", spoiled)


def test_a_skipped_update_changes_nothing_and_is_said(world, tmp_path, monkeypatch, capsys):
    spoil_losses_of(monkeypatch, 2)
    settings = {"max_steps": 3, "eval_every": 3, "save_every": 1, "skip_nonfinite": True}
    trainer = run(arguments(world, tmp_path, **settings))
    assert trainer.progress.skipped == 1 and trainer.optimizer.steps == 2
    assert [record["step"] for record in metrics(tmp_path)] == [1, 2, 3]
    last = metrics(tmp_path)[-1]
    assert last["skipped"] and last["loss"] is last["perplexity"] is last["grad_norm"] is None
    curve = read_run(tmp_path).training
    assert np.isfinite(curve.losses).tolist() == [True, True, False] and curve.best[0] in (1, 2)
    before, after = (
        [safetensors.numpy.load_file(tmp_path / f"checkpoint-{step}" / f"{file}.safetensors") for step in (2, 3)]
        for file in ("adapter_model", "optimizer")
    )
    for old, new in (before, after):
        for name, value in old.items():
            np.testing.assert_array_equal(new[name], value, err_msg=name)
    said = capsys.readouterr().out
    assert "step 3 skipped: loss nan" in said and "epoch 1 batch 3: " in said and "dialogues_train.txt:" in said


@pytest.mark.long
def test_a_run_that_skipped_an_update_resumes_to_the_same_end(world, tmp_path, monkeypatch):
    spoil_losses_of(monkeypatch, 2)
    settings = {"max_steps": 7, "eval_every": 2, "save_every": 1, "skip_nonfinite": True}
    run(arguments(world, tmp_path / "whole", **settings))
    first = prepare(arguments(world, tmp_path / "cut", **settings))

    def stop(self):
        if self.progress.step == 5:
            raise RuntimeError("a power cut")
        original(self)

    original = trainer_module.Trainer._update
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(trainer_module.Trainer, "_update", stop)
        first.run()
    run(arguments(world, tmp_path / "cut", **settings), resume=True)
    for file in ("adapter_model", "optimizer"):
        name = f"checkpoint-7/{file}.safetensors"
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_weights_that_are_not_finite_are_never_saved_as_a_checkpoint(world, tmp_path, monkeypatch):
    trainer = prepare(arguments(world, tmp_path, max_steps=6, eval_every=6, save_every=2))
    original = trainer_module.Trainer._update

    def update(self):
        original(self)
        if self.progress.step == 4:
            parameter = self.optimizer.parameters[0]
            parameter.assign(np.full(parameter.shape, np.inf, np.float32))

    monkeypatch.setattr(trainer_module.Trainer, "_update", update)
    with pytest.raises(UserError, match="weights that are not finite at step 4: .*the last good checkpoint is .*-2"):
        trainer.run()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]


@pytest.mark.long
def test_nothing_but_adapters_is_trained_behind_a_resume(world, tmp_path):
    settings = {"max_steps": 2, "eval_every": 2, "save_every": 1}
    run(arguments(world, tmp_path, **settings))
    trainer = prepare(arguments(world, tmp_path, **settings | {"max_steps": 3}), resume=True)
    frozen = {name: value.numpy() for name, value in trainer.model.named_parameters() if value.is_stop_grad()}
    trainer.run()
    names = [name for name, _ in trainer.optimizer.named_parameters]
    assert names and all(".lora_" in name for name in names)
    for name, value in frozen.items():
        np.testing.assert_array_equal(trainer.model.parameter(name).numpy(), value, err_msg=name)
