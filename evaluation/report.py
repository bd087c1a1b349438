"""What an evaluation shows: a table or JSON, notes on the figures, the predictions as a file, a confusion matrix."""

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.files import json_text, write_text, writing_to
from datasets.encode import EncodedSet
from datasets.example import Dataset
from datasets.task import Task
from evaluation import metrics
from evaluation.measure import Figure, Measured
from gpt2_jittor.runtime.precision import WEIGHTS


@dataclass
class Report:
    """Figures of each contestant on one split of a task: `rows` and `seconds` by the contestants' names.

    `trivial` says how the last row, which takes no model, was reached; `notes` is what a reader must know besides.
    """

    task: Task
    split: str
    precision: str
    dataset: Dataset
    data: EncodedSet
    rows: dict[str, dict[str, Figure]]
    seconds: dict[str, float]
    trivial: str
    notes: list[str]

    def json(self) -> str:
        """All of it as one JSON object."""
        result: dict[str, Any] = {"task": self.task.name, "split": self.split, "examples": len(self.dataset)}
        result |= {"scored_tokens": self.data.scored, "precision": self.precision}
        for name, figures in self.rows.items():
            result[name] = {key: round(figure.value, 5) for key, figure in figures.items()}
            result[name]["intervals"] = {key: _interval(figure) for key, figure in figures.items()}
            if name in self.seconds:
                result[name]["seconds"] = round(self.seconds[name], 1)
        return json.dumps(result | {"trivial_is": self.trivial, "notes": self.notes}, ensure_ascii=False)

    def table(self) -> str:
        """A line for each figure, a column for each contestant."""
        where = Path(self.dataset.examples[0].source.rpartition(":")[0])
        products = "" if self.precision == "fp32" else f", in {self.precision}"
        lines = [
            f"{self.task.name} {self.split}, {len(self.dataset):,} examples of {where}{products}; "
            "in brackets, the 95 % interval"
        ]
        names = list(dict.fromkeys(key for figures in self.rows.values() for key in figures))
        columns = [["", *names, "seconds"]]
        for contestant, figures in self.rows.items():
            cells = [_cell(figures[key]) if key in figures else "" for key in names]
            took = f"{self.seconds[contestant]:,.1f}" if contestant in self.seconds else ""
            columns.append([contestant, *cells, took])
        widths = [max(map(len, column)) for column in columns]
        for name, *cells in zip(*columns, strict=True):
            padded = [f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True)]
            lines.append("   ".join([f"{name:<{widths[0]}}", *padded]).rstrip())
        return "\n".join([*lines, "; ".join([f"trivial: {self.trivial}", *self.notes])])


def notes(rows: dict[str, dict[str, Figure]], headless: bool) -> list[str]:
    """What a reader of the figures must know. `headless`: the model itself has no classifier's head."""
    said = []
    if headless:
        said.append(f"{next(iter(rows))}: under a head that was never trained")
    for weights in (name for name in rows if name in WEIGHTS):  # the row of what was asked for in int8 or bf16
        of_floats = rows["adapter" if "adapter" in rows else "model"]["perplexity"].value
        said.append(f"{weights}: perplexity {rows[weights]['perplexity'].value / of_floats - 1:+.3%}")
    if any("f1" in figures for figures in rows.values()):
        said.append("loss: where a context is too long, on the part around the answer")
    return said


def write_predictions(path: Path, task: Task, measured: Measured) -> None:
    """By the publisher's ids, as SQuAD's own format has them, where examples have such; descriptions as a line each,
    which the E2E challenge's script reads; else a JSON object a line.
    """
    said = measured.predictions if task.kind.generates else [task.labels[p] for p in measured.predictions]
    pairs = list(zip(measured.examples, said, strict=True))
    if task.kind.judged_by == "descriptions":
        text = "".join(" ".join(prediction.split()) + "\n" for prediction in said)
    elif all(example.name for example in measured.examples):
        text = json_text({example.name: prediction for example, prediction in pairs})
    else:
        lines = [{"source": example.source, "prediction": prediction} for example, prediction in pairs]
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    with writing_to(path) as temporary:
        write_text(temporary, text)
    print(f"wrote {path}", file=sys.stderr)


def write_confusion(path: Path, task: Task, split: str, measured: Measured) -> None:
    """Who was taken for whom, as an image."""
    from evaluation.confusion_plot import draw_confusion

    matrix = metrics.confusion(measured.gold, measured.predictions, len(task.labels))
    draw_confusion(matrix, task.labels, path, f"{task.name} {split}")
    print(f"wrote {path}", file=sys.stderr)


def _interval(figure: Figure) -> list[float] | None:
    return None if math.isnan(figure.low) else [round(figure.low, 5), round(figure.high, 5)]


def _cell(figure: Figure) -> str:
    value = f"{figure.value:,.3f}"
    return value if math.isnan(figure.low) else f"{value} [{figure.low:,.3f}, {figure.high:,.3f}]"
