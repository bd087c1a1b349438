"""A run's log with trackers, what it tells them, and what metrics.jsonl says that they should have been told."""

import json
import sys
import time

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from generation.scoring import Score
from training.forecast import Forecast
from training.metrics_log import MetricsLog

GIVEN = {"seed": 3, "learning_rate": 0.5, "task": "dailydialog", "lora_targets": ["q", "v"], "epochs": None}


def log_of(folder, *names, reached=None) -> MetricsLog:
    folder.mkdir(exist_ok=True)
    return MetricsLog(folder, 9, Forecast(100, 0, 0), reached or {}, GIVEN | {"report_to": list(names)})


def step(log, number: int) -> None:
    record = {"step": number, "epoch": number / 9, "split": "train", "loss": 3 / (number + 1), "tokens": 100 + number}
    log.step(record | {"perplexity": 9.0, "learning_rate": 1e-3, "grad_norm": 0.1 * number}, 0.5)


def validate(log, number: int, examples: int = 7) -> None:
    log.validation(number, number / 9, Score(4 / (number + 1), 50, None, examples))


def metrics(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def expected(folder, whole=()) -> dict[tuple[str, int], float]:
    """What metrics.jsonl says, (name, step) -> value; `whole`: the lines that are no points of validation's curve."""
    found = {}
    for index, record in enumerate(metrics(folder)):
        split = "whole_validation" if index in whole else record["split"]
        numbers = {name: value for name, value in record.items() if name not in ("step", "split")}
        found |= {(f"{split}/{name}", record["step"]): value for name, value in numbers.items() if value is not None}
    return found


def read_events(folder) -> dict[tuple[str, int], float]:
    """What TensorBoard itself reads; no step of a curve may be there twice."""
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    points = [(name, point.step, point.value) for name in events.Tags()["scalars"] for point in events.Scalars(name)]
    assert all(abs(point.wall_time - time.time()) < 600 for point in events.Scalars("train/loss"))
    found = {(name, number): value for name, number, value in points}
    assert len(found) == len(points)
    return found


def assert_same(found, wanted) -> None:
    """Equal, as float32 has it: that is what an event file holds."""
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert found[key] == np.float32(value), key


def told(name: str) -> list[tuple]:
    """All points that a double was told, in order: (name, step, value)."""
    logs = [call for call in sys.modules[name].calls if call[0] == "log"]
    return [(key, number, value) for _, values, number in logs for key, value in values.items()]
