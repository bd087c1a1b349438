"""What a task hands over: examples made of given and scored segments, and the task that makes them.

A segment is the smallest piece that is either given to the model or to be said by it. That is all the
encoders need to know, so one encoder serves every task of its kind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets.encode import EncodedSet

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Segment:
    """A piece of text; `scored`: the model learns to say it; `end`: the end token follows it."""

    text: str
    scored: bool
    end: bool = True


@dataclass(frozen=True)
class Example:
    """Segments in reading order. `source` is "file:line", for messages about this example."""

    segments: tuple[Segment, ...]
    source: str = ""


class Dataset:
    """One split of one task, in memory. `dropped` names the records that were no use: "file:line: reason"."""

    def __init__(self, task: str, split: str, examples: Sequence[Example], dropped: Sequence[str] = ()):
        self.task = task
        self.split = split
        self.examples = list(examples)
        self.dropped = list(dropped)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]


@dataclass(frozen=True)
class Task:
    """What the commands need to know of a task.

    `load(split, data_dir)` reads one of `SPLITS`; a `data_dir` of None means the publisher's copy on the hub.
    `encode(examples, tokenizer, max_length)` turns examples into ids and labels. `prompt` makes the example
    that generation continues. `sample` is the folder of the embedded sample, where there is one.
    """

    name: str
    kind: str  # "chat" or "text"
    load: Callable[[str, Path | None], Dataset]
    encode: Callable[[Sequence[Example], object, int], EncodedSet]
    prompt: Callable[..., Example] | None = None
    sample: Path | None = None
