"""`metrics.jsonl`: what a run says of each update and each validation, written while it goes and read back as curves.

A plain text log, one loss a line, is read too: so the curve of any other program can be laid beside a run's.
Needs no Jittor.
"""

import contextlib
import json
import math
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from tqdm import tqdm

from common.errors import UserError
from common.files import flush, write_text
from common.terminal import bar
from training.forecast import Forecast
from training.trackers import Trackers

METRICS = "metrics.jsonl"
LARGEST = 3.4e38  # a float32
LONGEST = 1 << 20  # characters of a line: a sparse file, which weighs nothing on the disk, may be one endless line
WINDOW = 20  # steps over which the bar's tokens per second are averaged


class NullLog:
    """Stands where another process keeps the log."""

    def step(self, record: dict, step_seconds: float) -> None:
        """Writes nothing."""

    def validation(self, step: int, epoch: float, score) -> None:
        """Writes nothing."""

    def say(self, text: str) -> None:
        """Prints nothing."""

    def close(self) -> None:
        """There is nothing to close."""


class MetricsLog:
    """One run's metrics and bar. `reached`, of a run that is taken up again: the last step of each split.

    The lines of what came later are removed; all of them, where there is no `reached`.
    `arguments`: the run's; trackers that its `report_to` names are told them, and all that is logged.
    """

    def __init__(
        self,
        run_dir: Path,
        total_steps: int,
        forecast: Forecast,
        reached: Mapping[str, int] = MappingProxyType({}),
        arguments: Mapping[str, Any] = MappingProxyType({}),
    ):
        self.path, self.total_steps, self.forecast = run_dir / METRICS, total_steps, forecast
        told, seconds = self._last_steps() if reached else None, self._forget_after(reached)
        self.trackers = Trackers(arguments.get("report_to") or (), run_dir, arguments, self.say, told, seconds)
        self.trackers.replay(read_lines(self.path))
        self.started = time.perf_counter() - seconds
        self.bar = bar("train", total=total_steps, initial=reached.get("train", 0), unit="step")
        self.bar.set_postfix_str("operators that are new here are compiled first")
        self.recent: deque[tuple[int, float]] = deque(maxlen=WINDOW)

    @property
    def seconds(self) -> float:
        """Wall time of the run so far, an interrupted part included."""
        return time.perf_counter() - self.started

    def step(self, record: dict, step_seconds: float) -> None:
        """Logs one update; `record` has what METRICS lines have but time and speed; no loss where it is not finite."""
        self.recent.append((record["tokens"], step_seconds))
        speed = sum(tokens for tokens, _ in self.recent) / sum(seconds for _, seconds in self.recent)
        self._append({**record, "tokens_per_second": round(record["tokens"] / step_seconds, 1)})
        loss = math.nan if record["loss"] is None else record["loss"]
        said = f"loss {loss:.3f}, rate {record['learning_rate']:.1e}, {speed:,.0f} tokens/s"
        self.bar.set_postfix_str(said, refresh=False)
        self.bar.update()
        if forecast := self.forecast.update(record["tokens"], step_seconds, self.total_steps - record["step"]):
            self.say(forecast)

    def validation(self, step: int, epoch: float, score) -> None:
        """Logs one validation: a `Score` of `generation/scoring.py`."""
        record = {
            "step": step,
            "epoch": round(epoch, 4),
            "split": "validation",
            "loss": score.loss,
            "perplexity": score.perplexity,
            "tokens": score.tokens,
            "examples": score.examples,
        }
        self._append(record if score.accuracy is None else {**record, "accuracy": score.accuracy})

    def say(self, text: str) -> None:
        """Prints above the bar."""
        tqdm.write(text)

    def close(self) -> None:
        """Ends the bar, and what trackers are told. The lines are written already."""
        self.bar.close()
        self.trackers.close(finished=sys.exc_info()[0] is None)  # else an error, or Ctrl-C, is on its way out

    def _append(self, record: dict) -> None:
        record = {**record, "seconds": round(self.seconds, 3)}
        with self._telling(), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self.trackers.log(record)

    def flush(self) -> None:
        """Waits until the lines are on the disk: a checkpoint must not outlive the metrics of its steps."""
        with self._telling():
            flush(self.path)

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}; free some space") from error

    def _last_steps(self) -> dict[str, int]:
        """The last step of each split that the file tells of, be it made again now or not."""
        steps = sorted((record["step"], record["split"]) for _, record in self._records())
        return {split: step for step, split in steps}

    def _forget_after(self, reached: Mapping[str, int]) -> float:
        """Keeps the lines up to each split's step; the seconds passed by then.

        Drops the rest: a cut line, and what was measured at the end of the run on more examples than before.
        """
        kept, seconds, examples = [], 0.0, None
        for line, record in self._records():
            wanted = record["step"] <= reached.get(record["split"], -1)
            if record["split"] == "validation":
                examples = record.get("examples") if examples is None else examples
                wanted = wanted and record.get("examples") == examples
            if wanted:
                kept.append(line.rstrip("\n") + "\n")
                seconds = record.get("seconds", seconds)
        write_text(self.path, "".join(kept))
        return seconds

    def _records(self) -> Iterator[tuple[str, dict]]:
        """The file's lines with what they hold; those that hold no record, as a cut one, are passed over."""
        for line in read_lines(self.path) if self.path.is_file() else ():
            with contextlib.suppress(ValueError, RecursionError):
                record = json.loads(line)
                if (
                    isinstance(record, dict)
                    and type(record.get("step")) is int
                    and isinstance(record.get("split"), str)
                ):
                    yield line, record


# --- read back


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
    """What one training left: its curves, of which either may be missing."""

    name: str
    training: Curve | None
    validation: Curve | None


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
    training, validation = (_curve(points) for points in read(file, lines))
    if training is None and validation is None:
        raise UserError(f"{file} holds no finite loss to draw; let the training log some steps first")
    name = file.resolve().parent.name if file.name == METRICS else file.stem
    return Run(name, training, validation)


def read_lines(file: Path) -> Iterator[str]:
    """A file's lines, each with its newline, but for a last one that was cut.

    A byte that is not UTF-8 becomes a character that no line may hold. Raises UserError for a line without end.
    """
    with file.open(encoding="utf-8-sig", errors="replace") as opened:
        for number, line in enumerate(iter(lambda: opened.readline(LONGEST + 1), ""), start=1):
            if len(line) > LONGEST:
                raise UserError(f"{file}:{number} has more than {LONGEST:,} characters; mend or remove the line")
            yield line


# What is read: step -> loss. After a --resume steps come again, and the later line is the one that counts.
Points = dict[int, float]


def _read_metrics(file: Path, lines: list[str]) -> tuple[Points, Points]:
    splits: dict[str, Points] = {"train": {}, "validation": {}}
    examples = None
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
    return splits["train"], splits["validation"]


def _read_log(file: Path, lines: list[str]) -> tuple[Points, Points]:
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
    return points, {}


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
