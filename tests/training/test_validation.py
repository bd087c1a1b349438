"""Whole runs that validate on a part of the set: what is measured, on which weights, and when it is disturbed."""

import json

import numpy as np
import pytest
from runs import arguments, build_world, metrics, names, run

import lora
from generation.scoring import evaluate
from gpt2_jittor import GPT2LMHeadModel
from training import trainer as trainer_module
from training.curves import read_run
from training.model_card import CARD, write_card
from training.setup import read_inputs

STEPS, EVERY, DRAWN, ALL = 28, 7, 5, 10
CLOCK = {"seconds", "tokens_per_second"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return build_world(tmp_path_factory.mktemp("world"), train=40, validation=ALL)


def given(world, run_dir, **settings):
    """Its 112 sequences are worth 28 of validation: 10 once are less than half."""
    settings = {"max_steps": STEPS, "eval_every": EVERY, "eval_limit": DRAWN} | settings
    return arguments(world, run_dir, **settings)


@pytest.fixture(scope="module")
def undisturbed(world, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("undisturbed")
    return run_dir, run(given(world, run_dir))


def without_clock(run_dir) -> list[dict]:
    lines = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if key not in CLOCK} for line in lines]


def jump_after(monkeypatch, step: int) -> None:
    """From there on every weight that is trained jumps far away: what was best before stays the best."""
    original = trainer_module.learning_rate
    monkeypatch.setattr(trainer_module, "learning_rate", lambda *a: original(*a) if a[2] < step else 5.0)


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_the_best_is_chosen_on_the_part_and_measured_on_the_whole_at_the_end(world, tmp_path, monkeypatch, tuning):
    jump_after(monkeypatch, 16)
    trainer = run(given(world, tmp_path, tuning=tuning))
    *parts, last = metrics(tmp_path, "validation")
    assert [(line["step"], line["examples"]) for line in parts] == [
        (step, DRAWN) for step in range(0, STEPS + 1, EVERY)
    ]
    best = min(parts[1:], key=lambda line: line["loss"])
    assert best["step"] == last["step"] == trainer.progress.best_step == 14 and last["examples"] == ALL
    if tuning == "lora":
        model = GPT2LMHeadModel.from_pretrained(world / "dropping")
        lora.load_adapter(model, tmp_path)
    else:
        model = GPT2LMHeadModel.from_pretrained(tmp_path)
    plan = trainer.plan
    assert len(plan.validation) == DRAWN and len(plan.whole_validation) == ALL
    for data, line in ((plan.validation, best), (plan.whole_validation, last)):
        assert evaluate(model, data, 4, pad_id=256).loss == pytest.approx(line["loss"], rel=1e-5)
    assert last["loss"] != best["loss"] == trainer.progress.best_loss
    assert trainer.whole_score.loss == last["loss"] and trainer.whole_score.examples == ALL


def test_the_curve_is_of_the_part_alone(undisturbed):
    run_dir, _ = undisturbed
    *parts, last = metrics(run_dir, "validation")
    curve = read_run(run_dir).validation
    assert curve.steps.tolist() == [0, 7, 14, 21, 28] and last["examples"] == ALL
    assert curve.losses.tolist() == [line["loss"] for line in parts]


def test_the_card_tells_both(world, undisturbed):
    run_dir, trainer = undisturbed
    write_card(read_inputs(given(world, run_dir), say=lambda text: None), trainer.progress, 1, 2, trainer.whole_score)
    card, last = (run_dir / CARD).read_text(), metrics(run_dir, "validation")[-1]
    assert f"| the same, on all 10 | {last['loss']:.4f} | {last['perplexity']:.2f} |" in card
    assert "each validation: 5 of 10 examples, the same each time" in card


def interrupt_at_the_whole(monkeypatch, inputs_len: int) -> None:
    original = trainer_module.evaluate

    def measure(model, data, *others):
        if len(data) == inputs_len:
            raise KeyboardInterrupt
        return original(model, data, *others)

    monkeypatch.setattr(trainer_module, "evaluate", measure)


def test_ctrl_c_while_the_whole_is_measured_loses_nothing_and_resume_measures_it(
    world, tmp_path, monkeypatch, undisturbed
):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_at_the_whole(patch, ALL)
        run(given(world, tmp_path))
    assert f"checkpoint-{STEPS}" in names(tmp_path) and "adapter_model.safetensors" in names(tmp_path)
    assert {line["examples"] for line in metrics(tmp_path, "validation")} == {DRAWN}
    run(given(world, tmp_path), resume=True)
    assert without_clock(tmp_path) == without_clock(undisturbed[0])


def test_a_finished_run_that_is_resumed_has_measured_the_whole_once(world, tmp_path, undisturbed):
    run(given(world, tmp_path))
    run(given(world, tmp_path), resume=True)
    assert without_clock(tmp_path) == without_clock(undisturbed[0])


def test_a_run_that_is_made_longer_measures_the_whole_at_its_new_end(world, tmp_path, monkeypatch):
    run(given(world, tmp_path))
    run(given(world, tmp_path, max_steps=STEPS + EVERY), resume=True)
    found = [(line["step"], line["examples"]) for line in metrics(tmp_path, "validation")]
    best = found[-1][0]
    assert found == [*((step, DRAWN) for step in range(0, 36, EVERY)), (best, ALL)]


def test_a_run_that_ends_early_goes_on_from_its_last_weights(world, tmp_path, monkeypatch):
    """It is the best weights that are measured, and not they that are saved as the last."""
    settings = {"eval_every": 4, "save_every": 25, "patience": 2}
    jump_after(monkeypatch, 16)
    trainer = run(given(world, tmp_path, **settings))
    stopped = trainer.progress.step
    assert trainer.progress.best_step < stopped < STEPS and trainer.whole_score
    found, best = (lora_weights(tmp_path / part) for part in (f"checkpoint-{stopped}", "."))
    assert any((found[name] != best[name]).any() for name in best)


def lora_weights(folder) -> dict[str, np.ndarray]:
    import safetensors.numpy

    return safetensors.numpy.load_file(folder / "adapter_model.safetensors")
