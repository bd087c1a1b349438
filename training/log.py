"""What a run says while it goes: a bar on the terminal, a line of JSON a step in `metrics.jsonl`."""

import contextlib
import json
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from common.errors import UserError
from common.files import flush, write_text
from common.terminal import bar
from training.checkpoint import Progress
from training.evaluation import Score
from training.forecast import Forecast
from training.history import METRICS, read_lines

WINDOW = 20  # steps over which the bar's tokens per second are averaged


class Silence:
    """Stands where another process keeps the log."""

    def step(self, record: dict, step_seconds: float) -> None:
        """Writes nothing."""
        pass

    def validation(self, step: int, epoch: float, score: Score) -> None:
        """Writes nothing."""
        pass

    def say(self, text: str) -> None:
        """Prints nothing."""
        pass

    def close(self) -> None:
        """There is nothing to close."""
        pass


class Log:
    """One run's metrics and bar. A run that is taken up again from `progress` loses the lines of what came later."""

    def __init__(self, run_dir: Path, total_steps: int, forecast: Forecast, progress: Progress | None = None):
        self.path, self.total_steps, self.forecast = run_dir / METRICS, total_steps, forecast
        reached = {"train": progress.step, "validation": progress.validated} if progress else {}
        self.started = time.perf_counter() - self._forget_after(reached)
        self.bar = bar("train", total=total_steps, initial=reached.get("train", 0), unit="step")
        self.bar.set_postfix_str("operators that are new here are compiled first")
        self.recent: deque[tuple[int, float]] = deque(maxlen=WINDOW)

    @property
    def seconds(self) -> float:
        """Wall time of the run so far, an interrupted part included."""
        return time.perf_counter() - self.started

    def step(self, record: dict, step_seconds: float) -> None:
        """Logs one update; `record` has what METRICS lines have but time and speed."""
        self.recent.append((record["tokens"], step_seconds))
        speed = sum(tokens for tokens, _ in self.recent) / sum(seconds for _, seconds in self.recent)
        self._append({**record, "tokens_per_second": round(record["tokens"] / step_seconds, 1)})
        self.bar.set_postfix_str(
            f"loss {record['loss']:.3f}, rate {record['learning_rate']:.1e}, {speed:,.0f} tokens/s",
            refresh=False,
        )
        self.bar.update()
        if forecast := self.forecast.update(record["tokens"], step_seconds, self.total_steps - record["step"]):
            self.say(forecast)

    def validation(self, step: int, epoch: float, score: Score) -> None:
        """Logs one validation."""
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
        """Ends the bar. The lines are written already."""
        self.bar.close()

    def _append(self, record: dict) -> None:
        line = json.dumps({**record, "seconds": round(self.seconds, 3)})
        with self._telling(), self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

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

    def _forget_after(self, reached: dict[str, int]) -> float:
        """Keeps the lines up to each split's step; the seconds passed by then.

        Drops the rest: a cut line, and what was measured at the end of the run on more examples than before.
        """
        kept, seconds, examples = [], 0.0, None
        for line in read_lines(self.path) if self.path.is_file() else ():
            try:
                record = json.loads(line)
                wanted = record["step"] <= reached.get(record["split"], -1)
                if record["split"] == "validation":
                    examples = record.get("examples") if examples is None else examples
                    wanted = wanted and record.get("examples") == examples
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
            if wanted:
                kept.append(line.rstrip("\n") + "\n")
                seconds = record.get("seconds", seconds)
        write_text(self.path, "".join(kept))
        return seconds
