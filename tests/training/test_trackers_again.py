"""Trackers of a run that is taken up again: each is told all, and once, whatever became of it or of its store."""

import sys

import pytest
from tracking import log_of, read_events, step, told

from common.errors import UserError


def test_a_tracker_that_failed_is_told_what_it_missed_when_the_run_is_taken_up_again(tmp_path, double, monkeypatch):
    log = log_of(tmp_path / "run", double("trackio"))
    step(log, 1)
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["trackio"].Run, "log", None)
        step(log, 2)
        step(log, 3)
        log.close()
    before = len(sys.modules["trackio"].calls)
    log = log_of(tmp_path / "run", "trackio", reached={"train": 3, "validation": 0})
    step(log, 4)
    log.close()
    calls = sys.modules["trackio"].calls[before:]
    assert [call[2] for call in calls if call[0] == "log" and "train/loss" in call[1]] == [1, 2, 3, 4]


def test_a_tracker_whose_store_is_another_by_now_is_told_everything(tmp_path, double):
    log = log_of(tmp_path / "run", double("mlflow"))
    step(log, 1)
    log.close()
    sys.modules["mlflow"].runs.clear()
    sys.modules["mlflow"].calls.clear()
    log = log_of(tmp_path / "run", "mlflow", reached={"train": 1, "validation": 0})
    step(log, 2)
    log.close()
    assert [number for key, number, _ in told("mlflow") if key == "train/loss"] == [1, 2]


def test_a_tracker_that_cannot_go_on_leaves_the_metrics_as_they_are(tmp_path, double, monkeypatch):
    log = log_of(tmp_path / "run", double("swanlab"))
    for number in (1, 2, 3):
        step(log, number)
    log.close()
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with monkeypatch.context() as patch, pytest.raises(UserError, match="swanlab cannot begin"):
        patch.setattr(sys.modules["swanlab"], "init", None)
        log_of(tmp_path / "run", "swanlab", reached={"train": 2, "validation": 0})
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_others_files_beside_tensorboards_are_left_alone(tmp_path):
    mine = tmp_path / "run" / "tensorboard" / "mine" / "notes.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("here")
    (tmp_path / "run" / "tensorboard" / "events.out.tfevents.1.other").write_bytes(b"")
    for reached in ({}, {"train": 1, "validation": 0}):
        log = log_of(tmp_path / "run", "tensorboard", reached=reached)
        step(log, 2 if reached else 1)
        log.close()
    assert mine.read_text() == "here" and len([*mine.parents[1].iterdir()]) == 3
    assert [number for key, number in read_events(tmp_path / "run") if key == "train/loss"] == [1, 2]
