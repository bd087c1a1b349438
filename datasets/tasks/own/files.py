"""The files of people's own data: one file, or a folder with a file a split, and what is read of each."""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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


def split_files(path: Path) -> dict[str, tuple[Path, ...]]:
    """The files of each split that has some: of a file that is all the data, "train" alone.

    A split is one file, or the parts that the hub keeps it in. Raises UserError where there is nothing to train on, for
    two files that are each all of a split, and where parts are missing.
    """
    if path.is_file():
        return {"train": (path,)}
    found = {}
    for split, names in NAMES.items():
        folders = path, path / "data"
        whole = [folder / name for folder in folders for name in records.files(*names)]
        choices = [(file,) for file in whole if file.is_file()]
        choices += [parts for name in names for folder in folders for parts in _parts(folder, name)]
        if len(choices) > 1:
            first, second = (choice[0].relative_to(path) for choice in choices[:2])
            raise UserError(f"{path}: {first} and {second} are both {split} data: keep one of them")
        if choices:
            found[split] = choices[0]
    if "train" not in found and "test" not in found:
        raise ParameterError(
            "{0} has no train.jsonl, .json, .csv, .tsv or .parquet: name its file so, or give it with {data}", path
        )
    return found


def other_files(folder: Path, files: Mapping[str, Sequence[Path]]) -> list[str]:
    """What looks like data in a folder and is no split's: `eval.csv` perhaps, which may be meant as one."""
    used = {file for parts in files.values() for file in parts}
    there = [file for pattern in ("*", "data/*") for file in sorted(folder.glob(pattern)) if file.is_file()]
    return [str(file.relative_to(folder)) for file in there if file not in used and records.can_read(file)]


def _parts(folder: Path, name: str) -> Iterator[tuple[Path, ...]]:
    """What the hub's tools wrote of a split: train-00000-of-00002.parquet and its like, those that are one together."""
    found: dict[tuple[int, str], list[Path]] = {}
    for file in sorted(folder.glob(f"{name}-*")):
        # older versions of the hub's tools put a hash behind the numbers
        part = re.fullmatch(r"[0-9]{5}-of-([0-9]{5})(?:-[0-9a-f]{16})?(\..+)", file.name.removeprefix(f"{name}-"))
        if part and records.can_read(file):
            found.setdefault((int(part[1]), part[2]), []).append(file)
    for (count, _), files in found.items():
        if len(files) != count:
            raise UserError(f"{files[0]} is one of {count:,} parts, and {len(files):,} are there: get the others")
        yield tuple(files)


def guessed_task(path: Path, columns: Sequence[str]) -> str:
    """The task that a file, or the files of a folder, look like (`shapes.task_of`). Raises UserError for no such."""
    files = split_files(path)
    file = (files.get("train") or files["test"])[0]
    fields = records.fields(file, quoted=True)
    task = task_of(fields, columns, file)
    if task == "complete":  # a prompt or a completion that is a list of messages is a chat's
        shape, named = recognise(task, fields, parse_columns(task, columns), file)
        pair = [named[name] for name in PAIR] if shape.needed == PAIR else []
        _, first = next(records.records(file, pair, quoted=True))
        task = "chat" if any(are_messages(first[name]) for name in pair) else task
    return task


def read_rows(paths: Sequence[Path], task: str, columns: Mapping[str, str]) -> Rows:
    """The examples of a split's files; `columns` are those that were named, {ours: theirs}.

    Raises UserError, with file and line, for what is no record of a shape that the task has, and where nothing in the
    files can be learnt from.
    """
    rows, counts = Rows(), Counter()
    for path in paths:
        _read_file(path, task, columns, rows, counts)
    if not rows.examples:
        raise UserError(f"{paths[0]} has nothing to learn from; the first: {rows.dropped[0]}")
    rows.notes = [*dict.fromkeys(rows.notes), *(f"{text}: {count:,}" for text, count in counts.items() if count)]
    return rows


def _read_file(path: Path, task: str, columns: Mapping[str, str], rows: Rows, counts: Counter) -> None:
    """Adds what one file holds to `rows`, and what is noted of several examples to `counts`."""
    fields = records.fields(path, quoted=True)
    shape, named = recognise(task, fields, columns, path)
    # a later record may have what the first one lacks
    named |= {name: name for name in shape.optional if name not in {*named, *named.values()}}
    needed, optional = ([named[name] for name in names if name in named] for names in (shape.needed, shape.optional))
    for where, record in records.records(path, needed, optional=optional, quoted=True):
        try:
            ours = {name: record[theirs] for name, theirs in named.items()}
            rows.examples.append(shape.make(ours, where, counts))
        except Unusable as reason:
            rows.dropped.append(f"{where}: {reason}")
    unused = [name for name in fields if name not in named.values()]
    rows.notes.append(_described(path, shape.name, named, unused))


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
    """How a file is read, in one line; the parts of a split have the same."""
    file = re.sub("-[0-9]{5}-of-(?!00001)", "-*-of-", path.name)
    others = ", ".join(f"{ours} = {theirs}" for ours, theirs in named.items() if ours != theirs)
    left = f"; not used: {some(unused)}" if unused else ""
    return f"{file} is read as {shape}" + f" ({others})" * bool(others) + left
