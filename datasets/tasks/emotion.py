"""Emotion: short English messages, each of one of six feelings (Saravia et al. 2018).

The publisher's files are `text;label` lines; the hub's copy is Parquet, whose labels are numbers.
"""

from collections.abc import Iterator
from pathlib import Path

from common.errors import UserError
from common.hub import fetch
from datasets import records
from datasets.example import WHOLE, Dataset, Example, Segment
from datasets.holdout import select_split, shares_of
from datasets.read import read_text
from datasets.task import CLASSIFY, Task
from datasets.truncation import fitted, fitted_prompt

REPOSITORY = "dair-ai/emotion"
SAMPLE_DIR = Path(__file__).parents[1] / "samples" / "emotion"
LABELS = ("sadness", "joy", "love", "anger", "fear", "surprise")  # in the publisher's order
FILES = {"train": ("train",), "validation": ("val", "validation"), "test": ("test",), WHOLE: ("test",)}
HEADERS = ("label", "label_name", "emotion")  # what the last field of a header line says


def load(split: str, data_dir: Path | None) -> Dataset:
    """Reads a split from `data_dir` (.txt, or a format of `records`), or from the hub.

    A single file is parted into the three splits.
    Raises UserError where the file is missing, is empty, or has a line without one of the labels.
    """
    path = _file(split, data_dir)
    rows = _lines(path) if path.suffix == ".txt" else _records(path)
    examples = [Example(prompt(text).segments, where, label=label) for where, text, label in rows]
    if not examples:
        raise UserError(f"{path} is empty: it needs a `text;label` line for each message")
    messages = [example.segments[0].text for example in examples]
    return Dataset("emotion", split, select_split(examples, messages, split, shares_of(data_dir, {})))


def prompt(text: str) -> Example:
    """What the class is read from. No end token follows: transformers reads a text's last token that is no pad."""
    return Example((Segment(text.strip(), scored=False, end=False, cut=True),))


def _lines(path: Path) -> Iterator[tuple[str, str, int]]:
    for number, line in enumerate(read_text(path).split("\n"), 1):
        text, separator, label = line.rpartition(";")
        if not line.strip() or (number == 1 and label.strip().lower() in HEADERS):
            continue
        where = f"{path}:{number}"
        if not separator or not text.strip():
            raise UserError(f"{where}: a line must be `text;label`, not {line[:40]!r}")
        yield where, text.strip(), records.label(label, LABELS, where)


def _records(path: Path) -> Iterator[tuple[str, str, int]]:
    for where, record in records.records(path, ("text", "label"), aliases={"emotion": "label", "sentence": "text"}):
        yield where, records.text(record, "text", where), records.label(record["label"], LABELS, where)


def _file(split: str, data_dir: Path | None) -> Path:
    if data_dir is None:
        return fetch(REPOSITORY, f"split/{split}-00000-of-00001.parquet", repo_type="dataset")
    names = [*(f"{name}.txt" for name in FILES[split]), *records.files(*FILES[split])]
    hub_names = [f"split/{name}-00000-of-00001.parquet" for name in FILES[split]]
    return records.find(data_dir, [*names, *hub_names], f"emotion's {split} file")


TASK = Task("emotion", CLASSIFY, ("text",), load, fitted, prompt, fitted_prompt, SAMPLE_DIR, LABELS, parts_file=True)
