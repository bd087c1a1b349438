"""What a task hands over: examples made of given and scored segments.

A segment is the smallest piece that is either given to the model or to be said by it. That is all the
encoders need to know, so one encoder serves every task of its kind.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

SPLITS = ("train", "validation", "test")
WHOLE = "whole"  # all of a single file that `load` would part into these: of test data for what was trained on others


@dataclass(frozen=True)
class Segment:
    """A piece of text; `scored`: the model learns to say it; `end`: the end token follows it.

    `cut`: it may be shortened where its example is too long, but not the characters `keep`, [start, end).
    `speaker`: whose turn of a dialogue it is, 0 or 1. `special`: a special token that its text spells out is that
    token; else it is text like any other, as it must be wherever strangers write.
    """

    text: str
    scored: bool
    end: bool = True
    cut: bool = False
    keep: tuple[int, int] | None = None
    speaker: int | None = None
    special: bool = False


@dataclass(frozen=True)
class Example:
    """Segments in reading order. `source` is "file:line", for messages about this example.

    `label`: the class, for classification. `name` and `references`: the publisher's id, and every answer that
    counts as right; none of them where the right answer is that there is none.
    """

    segments: tuple[Segment, ...]
    source: str = ""
    label: int | None = None
    name: str = ""
    references: tuple[str, ...] = ()

    @property
    def opening(self) -> tuple[Segment, ...]:
        """What stands before the first scored segment; everything where nothing is scored."""
        first = next((index for index, segment in enumerate(self.segments) if segment.scored), None)
        return self.segments[:first]

    @property
    def given(self) -> Example:
        """What stands before the last scored segment: the prompt that its answer continues.

        Everything is given where nothing is scored (classification). What a segment must `keep` is not told:
        where the answer stands is known in training only.
        """
        last = max((index for index, segment in enumerate(self.segments) if segment.scored), default=None)
        before = [dataclasses.replace(segment, keep=None) for segment in self.segments[:last]]
        if last is not None and self.segments[last].speaker is not None:  # whose turn it is is given, too
            before.append(Segment("", scored=False, end=False, speaker=self.segments[last].speaker))
        return Example(tuple(before), self.source)


class Dataset:
    """One split of one task, in memory.

    `dropped` names the records that were no use, "file:line: reason"; `notes` are other facts for the report.
    """

    def __init__(
        self,
        task: str,
        split: str,
        examples: Sequence[Example],
        dropped: Sequence[str] = (),
        notes: Sequence[str] = (),
    ):
        self.task = task
        self.split = split
        self.examples = list(examples)
        self.dropped = list(dropped)
        self.notes = list(notes)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]
