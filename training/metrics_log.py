"""`metrics.jsonl`: what a run says of each update and each validation, written while it goes. Needs no Jittor."""

import contextlib
import json
import math
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tqdm import tqdm

from common.errors import UserError
from common.files import flush, write_text
from common.terminal import bar
from training.forecast import Forecast
from training.trackers import Trackers

METRICS = "metrics.jsonl"
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
        told, (kept, seconds) = self._last_steps() if reached else None, self._up_to(reached)
        # before lines are forgotten: a tracker that cannot begin leaves the file as it is
        self.trackers = Trackers(arguments.get("report_to") or (), run_dir, arguments, self.say, told, seconds)
        if reached and not self.path.is_file():
            self.say(f"{self.path} is gone: what was logged before is not known any more")
        write_text(self.path, kept)
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

    def _up_to(self, reached: Mapping[str, int]) -> tuple[str, float]:
        """The lines up to each split's step, and the seconds passed by then.

        Without the rest: a cut line, and what was measured at the end of the run on more examples than before.
        """
        kept, seconds, examples = [], 0.0, None
        for line, record in self._records():
            wanted = record["step"] <= reached.get(record["split"], -1)
            if record["split"] == "validation":
                examples = record.get("examples") if examples is None else examples
                wanted = wanted and record.get("examples") == examples
            if wanted:
                kept.append(line.rstrip("\n") + "\n")
                seconds = record["seconds"] if isinstance(record.get("seconds"), float) else seconds
        return "".join(kept), seconds

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


def read_lines(file: Path) -> Iterator[str]:
    """A file's lines, each with its newline, but for a last one that was cut.

    A byte that is not UTF-8 becomes a character that no line may hold. Raises UserError for a line without end.
    """
    with file.open(encoding="utf-8-sig", errors="replace") as opened:
        for number, line in enumerate(iter(lambda: opened.readline(LONGEST + 1), ""), start=1):
            if len(line) > LONGEST:
                raise UserError(f"{file}:{number} has more than {LONGEST:,} characters; mend or remove the line")
            yield line
