"""What a run says while it goes: a bar on the terminal, a line of JSON a step in `metrics.jsonl`."""

import json
import math
import time
from collections import deque
from pathlib import Path

from tqdm import tqdm

from common.errors import UserError
from common.files import write_text
from training.evaluation import Score
from training.history import METRICS

WINDOW = 20  # steps over which the bar's tokens per second are averaged


class Log:
    """One run's metrics and bar. A run that is taken up again at `resumed_at` loses the lines of later steps."""

    def __init__(self, run_dir: Path, total_steps: int, resumed_at: int | None = None):
        self.path = run_dir / METRICS
        first_step = resumed_at or 0
        self.started = time.perf_counter() - self._forget_after(-1 if resumed_at is None else resumed_at)
        self.bar = tqdm(total=total_steps, initial=first_step, desc="train", unit="step", dynamic_ncols=True)
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

    def validation(self, step: int, epoch: float, score: Score) -> None:
        """Logs one validation."""
        record = {
            "step": step,
            "epoch": round(epoch, 4),
            "split": "validation",
            "loss": score.loss,
            "perplexity": score.perplexity,
            "tokens": score.tokens,
        }
        self._append(record if score.accuracy is None else {**record, "accuracy": score.accuracy})

    def say(self, text: str) -> None:
        """Prints above the bar."""
        tqdm.write(text)

    def close(self) -> None:
        self.bar.close()

    def _append(self, record: dict) -> None:
        line = json.dumps({**record, "seconds": round(self.seconds, 3)})
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}; free some space") from error

    def _forget_after(self, step: int) -> float:
        """Keeps the lines up to `step`, drops the rest (a cut line too); the seconds that had passed by then."""
        kept, seconds = [], 0.0
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if record.get("step", math.inf) <= step:
                kept.append(line + "\n")
                seconds = record.get("seconds", seconds)
        write_text(self.path, "".join(kept))
        return seconds
