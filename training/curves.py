"""The losses that a training has logged, read back as curves.

A plain text log, one loss a line, is read too: so the curve of any other program can be laid beside a run's.
Needs no Jittor.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.errors import UserError
from training.metrics_log import METRICS, read_lines

LARGEST = 3.4e38  # a float32


@dataclass(frozen=True)
class Curve:
    """Losses in nats per token at ascending steps, both [points]; a loss that was not finite is NaN."""

    steps: np.ndarray
    losses: np.ndarray

    @property
    def best(self) -> tuple[int, float]:
        """The step and the loss of the lowest point."""
        lowest = int(np.nanargmin(self.losses))
        return int(self.steps[lowest]), float(self.losses[lowest])


@dataclass(frozen=True)
class Run:
    """What one training left: its curves, of which either may be missing.

    `smoothed_labels`: its training's losses are of them, and above those of what is there; validations never are.
    """

    name: str
    training: Curve | None
    validation: Curve | None
    smoothed_labels: bool = False


def read_run(path: str | Path) -> Run:
    """Reads a run's folder, a metrics file or a text log.

    Raises UserError where nothing is there, a line is broken (file:line) or no finite loss is found.
    """
    path = Path(path)
    file = path / METRICS if path.is_dir() else path
    if (
        file != path and file.exists() and not file.is_file()
    ):  # a pipe that was named is read, one that was found is not
        raise UserError(f"{file} is no regular file: give a run's folder")
    try:
        lines = list(read_lines(file))
    except FileNotFoundError:
        raise UserError(f"{file} does not exist; give a run's folder, a {METRICS} or a text log") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from error
    first = next((line for line in lines if line.strip()), "")
    read = _read_metrics if file.suffix == ".jsonl" or first.lstrip().startswith("{") else _read_log
    *points, smoothed_labels = read(file, lines)
    training, validation = map(_curve, points)
    if training is None and validation is None:
        raise UserError(f"{file} holds no finite loss to draw; let the training log some steps first")
    name = file.resolve().parent.name if file.name == METRICS else file.stem
    return Run(name, training, validation, smoothed_labels)


# What is read: step -> loss. After a --resume steps come again, and the later line is the one that counts.
Points = dict[int, float]


def _read_metrics(file: Path, lines: list[str]) -> tuple[Points, Points, bool]:
    splits: dict[str, Points] = {"train": {}, "validation": {}}
    examples, smoothed_labels = None, False
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line, parse_int=float)
        except (ValueError, RecursionError):
            if not line.endswith("\n"):
                break  # cut while it was written
            raise UserError(f"{file}:{number} is not JSON; mend or remove the line") from None
        if not _is_metric(record):
            expected = '"step" (whole number), "split" ("train" or "validation") and "loss" (number)'
            raise UserError(f"{file}:{number} needs {expected}; mend or remove the line")
        if record["split"] == "validation":
            examples = examples or record.get("examples")
            if record.get("examples") != examples:
                continue  # the last one, on the whole set: no point of a curve of others
        splits[record["split"]][int(record["step"])] = math.nan if record["loss"] is None else record["loss"]
        smoothed_labels |= record["loss"] is not None and record.get("perplexity", ...) is None
    return splits["train"], splits["validation"], smoothed_labels


def _read_log(file: Path, lines: list[str]) -> tuple[Points, Points, bool]:
    numbered = [(number, line.replace(",", " ").split()) for number, line in enumerate(lines, start=1)]
    rows = [(number, fields) for number, fields in numbered if fields and not fields[0].startswith("#")]
    if rows and len(rows[0][1]) <= 2 and all(_as_number(field) is None for field in rows[0][1]):
        del rows[0]  # a header
    points: Points = {}
    for number, fields in rows:
        values = [_as_number(field) for field in fields]
        step, loss = values if len(values) == 2 else (float(len(points) + 1), values[0])
        if len(values) != len(rows[0][1]) or len(values) > 2 or loss is None or not _is_step(step):
            expected = "a loss, or a step and a loss, like the file's other lines"
            raise UserError(f"{file}:{number} should hold {expected}; mend or remove the line")
        points[int(step)] = loss
    return points, {}, False


def _is_metric(record: object) -> bool:
    return (
        isinstance(record, dict)
        and _is_step(record.get("step"))
        and record.get("split") in ("train", "validation")
        and (isinstance(loss := record.get("loss"), float) or (loss is None and record.get("skipped") is True))
    )


def _is_step(value: object) -> bool:
    return isinstance(value, float) and value.is_integer() and 0 <= value < 2**53  # exact in a float


def _as_number(field: str) -> float | None:
    try:
        return float(field)
    except ValueError:
        return None


def _curve(points: Points) -> Curve | None:
    steps = np.array(sorted(points), dtype=np.int64)
    losses = np.array([points[step] for step in steps.tolist()], dtype=np.float64)
    # a line breaks at NaN; infinity would spoil the axis, and so would what no float32 program computes
    losses[np.abs(losses) > LARGEST] = np.nan
    return None if np.isnan(losses).all() else Curve(steps, losses)
