"""The files of people's own data: one file, or a folder with a file a split, and what is read of each."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import ParameterError, UserError
from common.terminal import some
from datasets import records
from datasets.example import Example
from datasets.tasks.own.cells import Unusable
from datasets.tasks.own.conversations import are_messages
from datasets.tasks.own.shapes import PAIR, parse_columns, recognise, task_of

NAMES = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}  # of each split


@dataclass
class Rows:
    """What a file holds: examples, the records that were `dropped` ("file:line: reason"), and `notes` on it."""

    examples: list[Example] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def split_files(path: Path) -> dict[str, Path]:
    """The file of each split that has one: of a file that is all the data, "train" alone.

    Raises UserError where there is nothing to train on, or two files for one split.
    """
    if path.is_file():
        return {"train": path}
    found = {}
    for split, names in NAMES.items():
        hub = [f"{folder}{name}-00000-of-00001.parquet" for folder in ("", "data/") for name in names]
        files = [path / name for name in (*records.files(*names), *hub) if (path / name).is_file()]
        if len(files) > 1:
            raise UserError(f"{files[0]} and {files[1].name} are both {split} data: keep one of them")
        if files:
            found[split] = files[0]
    if "train" not in found and "test" not in found:
        raise ParameterError(
            "{0} has no train.jsonl, .json, .csv, .tsv or .parquet: name its file so, or give it with {data}", path
        )
    return found


def guessed_task(path: Path, columns: Sequence[str]) -> str:
    """The task that a file, or the files of a folder, look like (`shapes.task_of`). Raises UserError for no such."""
    files = split_files(path)
    file = files.get("train") or files["test"]
    fields = records.fields(file, quoted=True)
    task = task_of(fields, columns, file)
    if task == "complete":  # a prompt or a completion that is a list of messages is a chat's
        shape, named = recognise(task, fields, parse_columns(task, columns), file)
        pair = [named[name] for name in PAIR] if shape.needed == PAIR else []
        _, first = next(records.records(file, pair, quoted=True))
        task = "chat" if any(are_messages(first[name]) for name in pair) else task
    return task


def read_rows(path: Path, task: str, columns: Mapping[str, str]) -> Rows:
    """The examples of a file; `columns` are those that were named, {ours: theirs}.

    Raises UserError, with file and line, for what is no record of a shape that the task has, and where nothing in the
    file can be learnt from.
    """
    fields = records.fields(path, quoted=True)
    shape, named = recognise(task, fields, columns, path)
    rows, counts = Rows(), Counter()
    # a later record may have what the first one lacks
    named |= {name: name for name in shape.optional if name not in {*named, *named.values()}}
    needed, optional = ([named[name] for name in names if name in named] for names in (shape.needed, shape.optional))
    for where, record in records.records(path, needed, optional=optional, quoted=True):
        try:
            ours = {name: record[theirs] for name, theirs in named.items()}
            rows.examples.append(shape.make(ours, where, counts))
        except Unusable as reason:
            rows.dropped.append(f"{where}: {reason}")
    if not rows.examples:
        raise UserError(f"{path} has nothing to learn from; the first: {rows.dropped[0]}")
    unused = [name for name in fields if name not in named.values()]
    rows.notes.append(_described(path, shape.name, named, unused))
    rows.notes += [f"{text}: {count:,}" for text, count in counts.items() if count]
    return rows


def with_labels(examples: Sequence[Example], labels: Sequence[str]) -> list[Example]:
    """Examples whose names are labels, with the labels' numbers instead. Raises UserError for any other label."""
    numbers = {label: number for number, label in enumerate(labels)}
    for example in examples:
        if example.name not in numbers:
            raise UserError(
                f"{example.source}: the label {example.name!r} is none of the training data's: {some(labels)}"
            )
    return [dataclasses.replace(example, label=numbers[example.name], name="") for example in examples]


def _described(path: Path, shape: str, named: Mapping[str, str], unused: Sequence[str]) -> str:
    """How a file is read, in one line."""
    others = ", ".join(f"{ours} = {theirs}" for ours, theirs in named.items() if ours != theirs)
    left = f"; not used: {some(unused)}" if unused else ""
    return f"{path.name} is read as {shape}" + f" ({others})" * bool(others) + left
