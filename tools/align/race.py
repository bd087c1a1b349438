"""Both sides run side by side, in processes of their own, a turn of the one after a turn of the other."""

import contextlib
import dataclasses
import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.race import Contestant, Process
from common.errors import UserError
from common.terminal import bar
from training.metrics_log import WINDOW

OURS, THEIRS = "this project", "transformers + PEFT"
LOGS = {OURS: "ours", THEIRS: "torch"}  # how their logs are called
SUFFIXES = {False: "", True: "-dropout"}


@dataclass
class Log:
    """What a side said of each update, and what it arrived at.

    `updates`: a record each, in order, with `loss`, `grad_norm`, `learning_rate`, `tokens` and `update_seconds`.
    `validation`: step -> loss. `replies`: the ids of each prompt's. `versions` of what computed it.
    """

    updates: list[dict[str, Any]] = field(default_factory=list)
    validation: dict[int, float] = field(default_factory=dict)
    replies: list[list[int]] = field(default_factory=list)
    peak_mb: float = float("nan")
    versions: dict[str, str] = field(default_factory=dict)

    def column(self, name: str) -> list[float]:
        """One value of each update."""
        return [update[name] for update in self.updates]

    @property
    def seconds(self) -> float:
        """Of an update: the median of all but the first, for which operators may be compiled."""
        return statistics.median(self.column("update_seconds")[1:] or self.column("update_seconds"))

    def tokens_per_second(self, window: int = 0) -> float:
        """Real tokens in a second of updates, over the last `window` of them, or all but the first."""
        counted = self.updates[-window:] if window else self.updates[1:] or self.updates
        return sum(update["tokens"] for update in counted) / sum(update["update_seconds"] for update in counted)

    def take(self, record: dict[str, Any], step: int) -> list[dict[str, Any]]:
        """Takes up what a turn gave; the lines that are written of it, as `metrics.jsonl` has them."""
        lines = []
        if step:
            update = {name: value for name, value in record.items() if name not in ("validation", "replies")}
            lines.append({"step": step, "split": "train", **update})
            self.updates.append(lines[-1])
        if "validation" in record:
            self.validation[step] = record["validation"]
            lines.append({"step": step, "split": "validation", "loss": record["validation"]})
        self.replies = record.get("replies", [])
        return lines


def contestants(settings: dict[str, Any], torch_python: str) -> list[Contestant]:
    """Ours, which writes the start, and PyTorch's, which is started when that is there."""
    script = str(Path(__file__).with_name("torch_side.py"))
    ours, theirs = Contestant(OURS, "tools.align.ours", settings), Contestant(THEIRS, script, settings)
    return [ours, dataclasses.replace(theirs, python=torch_python)]


def run(sides: list[Contestant], steps: int, folder: Path, dropout: bool) -> dict[str, Log]:
    """Lets both make all updates, and writes what they say of them into `folder`, a file each.

    Raises UserError where one of them fails.
    """
    logs, suffix = {side.name: Log() for side in sides}, SUFFIXES[dropout]
    with contextlib.ExitStack() as stack:
        shown = stack.enter_context(bar(f"with{'' if dropout else 'out'} dropout", total=steps, unit="step"))
        shown.set_postfix_str("both sides get ready; operators that are new here are compiled first")
        processes = {side.name: stack.enter_context(_started(side)) for side in sides}
        files = {name: stack.enter_context((folder / f"{LOGS[name]}{suffix}.jsonl").open("w")) for name in logs}
        for step in range(steps + 1):
            for name, process in processes.items():
                process.run()
                _check(name, process, f"at step {step}")
                for line in logs[name].take(process.result.outcome, step):
                    files[name].write(json.dumps(line) + "\n")
                    files[name].flush()
            if step:
                shown.set_postfix_str(_progress(*logs.values(), dropout), refresh=False)
                shown.update()
        for name, process in processes.items():
            result = process.stop()
            _check(name, process, "at its end")
            logs[name].peak_mb, logs[name].versions = result.peak_mb, result.more
    return logs


def _progress(ours: Log, theirs: Log, dropout: bool) -> str:
    """What the bar says: with dropout, a single update's losses are not to be compared."""
    losses, said = (ours.column("loss"), theirs.column("loss")), f"loss {ours.updates[-1]['loss']:.3f}"
    if not dropout:
        said += f", difference at most {max(abs(one - other) for one, other in zip(*losses, strict=True)):.1e}"
    return f"{said}, {ours.tokens_per_second(WINDOW):,.0f} and {theirs.tokens_per_second(WINDOW):,.0f} tokens/s"


@contextlib.contextmanager
def _started(side: Contestant) -> Iterator[Process]:
    process = Process(side)
    try:
        _check(side.name, process, "while it got ready")
        yield process
    finally:
        process.process.kill()  # does nothing where it has ended, as it has unless something went wrong
        process.process.wait()


def _check(name: str, process: Process, when: str) -> None:
    failure = process.result.failure
    if name == THEIRS and failure.startswith("ModuleNotFoundError"):
        python, what = process.process.args[0], failure.partition(": ")[2]
        raise UserError(f"{python} has not all of PyTorch, transformers and PEFT ({what}): `make align` installs them")
    if failure:
        raise UserError(f"{name} failed {when}: {failure}")
