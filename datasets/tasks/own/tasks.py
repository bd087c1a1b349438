"""Tasks on data of people's own: chat, instruct, complete and classify, after the kinds that they are of.

What a publisher's task has in its code, a run of one of these keeps in its arguments: names of columns, and labels.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import ParameterError, UserError
from common.terminal import some
from datasets import turns
from datasets.encode import EncodedSet, packed
from datasets.example import Dataset, Example
from datasets.holdout import select_split
from datasets.task import ASSISTANT, CLASSIFY, COMPLETE, INSTRUCT, Task
from datasets.tasks import dolly, emotion
from datasets.tasks.own import conversations
from datasets.tasks.own.files import Rows, other_files, read_rows, split_files, with_labels
from datasets.tasks.own.shapes import parse_columns
from datasets.tasks.text import beginning
from datasets.truncation import fitted, fitted_prompt

VALIDATION_SHARE = 0.1  # of the data, where no validation file is there
MOST_ALIKE = 0.1  # of the examples may be asked the same and still be kept together
MOST_LABELS = 1000  # more are no classes, but a column of something else
SETTINGS = ("columns", "validation_share", "labels")  # of a run, which say nothing to a publisher's task


@dataclass(frozen=True)
class OwnData:
    """How a task's data are read: its name, names of columns, {ours: theirs}, and of a classifier its `labels`.

    `validation_share`: how much is set apart where there is no validation file; VALIDATION_SHARE if that was not said.
    `trained_on`: the file, or the folder, that a run was trained on; any other file is test data, all of it.
    """

    task: str
    columns: Mapping[str, str] = field(default_factory=dict)
    validation_share: float | None = None
    labels: tuple[str, ...] = ()
    trained_on: str | None = None
    _read: dict[tuple, Rows] = field(default_factory=dict, compare=False, repr=False)  # each once

    def load(self, split: str, path: Path | None) -> Dataset:
        """Reads a split of a file or a folder; validation is set apart from train where it has no file.

        Raises UserError where the split is missing, or a record broken.
        """
        files = self._files(path)
        if split not in files and (split != "validation" or "train" not in files):
            other = ", or {split} validation" if split == "test" else ""
            raise ParameterError("{0} has no {1} data, such as {1}.csv: give some" + other, path, split)
        rows = self._rows(files.get(split) or files["train"])
        examples, notes = rows.examples, rows.notes
        if self.labels:
            examples = with_labels(examples, self.labels)
        if "validation" not in files and split != "test":
            share = self.validation_share or VALIDATION_SHARE
            examples = select_split(examples, keys(examples), split, {"validation": share})
            if split == "validation":
                notes = [f"set apart from {files['train'][0].name} by their content"]
        if self.labels:
            notes = [*notes, *_label_notes(examples, self.labels)]
        if split == "train" and path.is_dir() and (others := other_files(path, files)):
            notes = [*notes, f"files that are no split's, not used: {some(others)}"]
        return Dataset(self.task, split, examples, rows.dropped if split in files else [], notes)

    def with_labels_of(self, path: Path | None) -> Task:
        """The task with the labels of its training data, in the order of their names, or of their numbers.

        Raises UserError where they are fewer than two, or too many to be classes.
        """
        files = self._files(path)
        source = files.get("train") or files["test"]
        labels = sorted({example.name for example in self._rows(source).examples})
        file = source[0]
        if len(labels) < 2:
            raise UserError(f"{file} has one label only, {labels[0]!r}: a classifier needs two or more")
        if len(labels) > MOST_LABELS:
            raise ParameterError("{0} has {1:,} labels: is it another column ({columns} label=…)?", file, len(labels))
        if all(label.removeprefix("-").isdecimal() for label in labels):
            labels.sort(key=int)
        return dataclasses.replace(self, labels=tuple(labels)).as_task()

    def measured_on(self, path: Path | None) -> str:
        """The split that a finished run is measured on: test, or validation where there is no test file."""
        return "test" if "test" in self._files(path) else "validation"

    def as_task(self) -> Task:
        """The task that reads its data so."""
        asks = self.task == "classify" and not self.labels
        return dataclasses.replace(
            TASKS[self.task],
            own=True,
            load=self.load,
            labels=self.labels,
            measured_on=self.measured_on,
            settle=self.with_labels_of if asks else None,
        )

    def _rows(self, files: tuple[Path, ...]) -> Rows:
        """What a split's files hold. Training and validation may be of one file, and a classifier's labels come before
        both."""
        states = [path.stat() for path in files]
        # as they are now: they may be edited meanwhile
        now = *files, *((state.st_mtime_ns, state.st_size) for state in states)
        if now not in self._read:
            self._read[now] = read_rows(files, self.task, self.columns)
        return self._read[now]

    def _files(self, path: Path | None) -> dict[str, tuple[Path, ...]]:
        if path is None:
            raise ParameterError("{task} {0} reads your own data: give a file with {data}, or {data_dir}", self.task)
        trained_on = None if self.trained_on is None else Path(self.trained_on)
        if trained_on and trained_on.is_dir() and path.is_file():
            splits = split_files(trained_on)  # of a run's folder, its training file is what is in the folder
            path = trained_on if any(_is_same(path, file) for file in splits.get("train", ())) else path
        files = split_files(path)
        if path.is_file() and not _is_same(path, trained_on):
            files |= {"test": (path,)}
        if self.validation_share and "validation" in files:
            raise ParameterError("{validation_share}: {0} is there already: leave it out", files["validation"][0])
        return files


def _is_same(path: Path, other: Path | None) -> bool:
    return other is not None and path.resolve() == other.resolve()


def of_run(name: str, run: Mapping[str, Any]) -> Task:
    """The task called `name` as a run's arguments have it: columns, labels, the share of validation.

    Raises UserError for columns that are not the task's, and for labels that are none.
    """
    labels = tuple(run.get("labels") or ())
    if labels and name != "classify":
        raise ParameterError("{labels} are a classifier's, and {task} {0} is none: leave them out", name)
    if labels and (len({*labels}) < max(2, len(labels)) or not all(isinstance(each, str) and each for each in labels)):
        raise ParameterError("{labels} must be two or more, each named once: mend them")
    columns = parse_columns(name, run.get("columns") or ())
    return OwnData(name, columns, run.get("validation_share"), labels, run.get("data") or run.get("data_dir")).as_task()


def keys(examples: Sequence[Example]) -> list[str]:
    """What must not stand on both sides of a split: what is asked, or all of it where many are asked the same.

    Else one question, "Tell a joke.", would be all of validation or none of it.
    """
    asked = ["\n".join(segment.text for segment in example.opening) for example in examples]
    if max(Counter(asked).values()) <= max(2, MOST_ALIKE * len(examples)):
        return asked
    return ["\n".join(segment.text for segment in example.segments) for example in examples]


def encode_completions(examples: Sequence[Example], tokenizer, max_length: int) -> EncodedSet:
    """Completions apart, each whole or not at all; texts without a prompt joined and cut into windows."""
    encode = fitted if any(example.opening for example in examples) else packed
    return encode(examples, tokenizer, max_length)


def _label_notes(examples: Sequence[Example], labels: Sequence[str]) -> list[str]:
    """How often each label is there, and what looks like a slip."""
    counts = Counter(labels[example.label] for example in examples)
    notes = [f"{len(labels):,} labels: " + some([f"{label} {count:,}" for label, count in counts.most_common()])]
    if absent := [label for label in labels if label not in counts]:
        notes.append(f"labels without an example: {some(absent)}")
    alike = Counter(label.lower() for label in labels)
    if slips := [label for label in labels if alike[label.lower()] > 1]:
        notes.append(f"labels that differ in capitals alone: {some(slips)}")
    return notes


def _unread(split: str, path: Path | None) -> Dataset:
    raise AssertionError("a task of one's own is made by of_run")


_CHAT = Task(
    name="chat",
    kind=ASSISTANT,
    fields=("system", "prompt"),
    load=_unread,
    encode=turns.conversations,
    prompt=conversations.prompt,
    encode_prompt=turns.conversation_prompt,
    teach=turns.teach,
)
TASKS = {
    task.name: task
    for task in (
        _CHAT,
        Task("instruct", INSTRUCT, ("instruction", "context"), _unread, fitted, dolly.prompt, fitted_prompt),
        Task("complete", COMPLETE, ("prompt",), _unread, encode_completions, beginning, fitted_prompt),
        Task("classify", CLASSIFY, ("text",), _unread, fitted, emotion.prompt, fitted_prompt),
    )
}
