"""How a run ends, what of it stays, and what its settings are for."""

import dataclasses
import shutil

import numpy as np
import pytest
import tiny
from runs import arguments, build_world, prepare, run

import train
from common.errors import UserError
from training.arguments import TrainingArguments


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return build_world(tmp_path_factory.mktemp("world"))


def test_patience_stops_a_run_that_no_longer_improves(world, tmp_path):
    # with such a rate no weight changes: the first validation is the best, the next two are no better
    given = arguments(world, tmp_path, max_steps=9, eval_every=1, learning_rate=1e-30, patience=2)
    assert run(given).progress.step == 3


def test_a_run_that_runs_out_of_patience_is_saved_and_goes_on_where_it_is_given_more(world, tmp_path):
    """Though no checkpoint was due yet."""
    given = arguments(world, tmp_path, max_steps=9, eval_every=1, save_every=100, learning_rate=1e-30, patience=2)
    run(given)
    with pytest.raises(UserError, match="holds a run already"):
        prepare(given)
    trainer = prepare(dataclasses.replace(given, patience=4), resume=True)
    assert trainer.resumed_from == tmp_path / "checkpoint-3"
    assert trainer.run().step == 5


def test_a_result_whose_checkpoints_were_removed_is_not_trained_over(world, tmp_path):
    given = arguments(world, tmp_path, max_steps=2)
    run(given)
    for checkpoint in tmp_path.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    before = (tmp_path / "adapter_model.safetensors").read_bytes()
    with pytest.raises(UserError, match="holds a run already"):
        prepare(given)
    with pytest.raises(UserError, match="holds a run already: add --resume"):
        train.check_folder(tmp_path, None)
    assert (tmp_path / "adapter_model.safetensors").read_bytes() == before


def test_what_a_recipe_says_of_lora_has_no_effect_on_full_tuning(world, tmp_path):
    given = {"tuning": "full", "max_steps": 2, "learning_rate": 1e-3, "weight_decay": 0.0}
    plain, other = (
        run(arguments(world, tmp_path / str(ratio), lora_plus_ratio=ratio, **given)).model.state_dict()
        for ratio in (1.0, 16.0)
    )
    assert all(np.array_equal(value.numpy(), other[name].numpy()) for name, value in plain.items())


def test_an_update_of_texts_is_named_by_its_window_where_validation_has_examples(tmp_path):
    model = tiny.model_folder(tmp_path / "model", seed=1)
    texts = [{"text": f"We like tea number {number}. " * 9} for number in range(9)]
    tiny.write_records(tmp_path / "data" / "train.jsonl", texts)
    tiny.write_records(tmp_path / "data" / "validation.jsonl", [{"prompt": "We", "completion": "like tea."}])
    settings = {"task": "complete", "data_dir": str(tmp_path / "data"), "max_length": 40}
    trainer = prepare(TrainingArguments(model=str(model), output_dir=str(tmp_path / "run"), **settings))
    assert "window" in trainer.batches.describe(0) and "validation" not in trainer.batches.describe(0)
