"""Smoothed labels in a run: what its log says of them, and that validation knows nothing of them.

That a run is torch's, step by step, is in `test_trainer.py`; the loss itself in `tests/ops/test_head_loss.py`.
"""

import math

import pytest
import tiny
from runs import arguments, metrics, run

from common.errors import UserError
from training.arguments import TrainingArguments


@pytest.fixture
def world(tmp_path):
    tiny.model_folder(tmp_path / "still", seed=1)
    tiny.dialogue_folder(tmp_path / "data", seed=2)
    return tmp_path


def test_a_smoothed_training_loss_is_no_perplexity_and_validation_is_not_smoothed(world, tmp_path):
    settings = {"lora_dropout": 0.0, "max_steps": 1, "learning_rate": 1e-9}
    smoothed, plain = (
        run(arguments(world, tmp_path / str(share), "still", label_smoothing=share, **settings)) for share in (0.5, 0.0)
    )
    (record,), (other,) = metrics(smoothed.run_dir), metrics(plain.run_dir)
    assert record["perplexity"] is None and other["perplexity"] == pytest.approx(math.exp(other["loss"]))
    assert record["loss"] != pytest.approx(other["loss"], rel=1e-3)
    first, same = metrics(smoothed.run_dir, "validation")[0], metrics(plain.run_dir, "validation")[0]
    assert (first["loss"], first["perplexity"]) == (same["loss"], same["perplexity"])


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(UserError, match="label_smoothing"):
        TrainingArguments(label_smoothing=share)
