"""What a task is to the commands, and the seven kinds of tasks: chat, questions, instructions, completions,
descriptions, plain text, classes.

A kind is data. What follows from it (which fields are asked for, whether turns are remembered, how answers are judged)
stands here, and nobody asks which kind it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets.example import Dataset, Example

if TYPE_CHECKING:
    import numpy as np

    from datasets.encode import EncodedSet


@dataclass(frozen=True)
class Kind:
    """How tasks of one kind are asked and answered.

    `optional`: fields that an input may leave out. `standing`: a field that stands while several of the last one are
    asked; a session asks for it first, unless it is optional. `remembers`: what was said before belongs to the next
    prompt. `keeps_space`: a text is read, and shown, to its last character. `refuses_long`: an input that would be cut
    is refused. `generates`: else it tells classes apart.
    `answer_tokens`: the longest answer that an evaluation lets a model give; None where there is none to judge.
    `judged_by`: "answers", by those that count as right; "descriptions", by all texts of one meaning, each of which is
    an example, and the meaning is asked once; else "replies", by what was really said.
    `repeats_prompt`: an answer says what its prompt says, and repeats nothing by that.
    `example`: the task whose prompts `--mode` means, where a model was trained for another kind.
    """

    name: str
    optional: tuple[str, ...] = ()
    standing: str | None = None
    remembers: bool = False
    keeps_space: bool = False
    refuses_long: bool = False
    generates: bool = True
    answer_tokens: int | None = None
    judged_by: str = "replies"
    repeats_prompt: bool = False
    example: str | None = None


CHAT = Kind("chat", remembers=True, answer_tokens=40, example="dailydialog")
ASSISTANT = dataclasses.replace(CHAT, optional=("system",), standing="system", example=None)  # a chat, told how to be
QA = Kind("qa", standing="context", answer_tokens=32, judged_by="answers", example="squad")
COMPLETE = Kind("complete", keeps_space=True, answer_tokens=128)
INSTRUCT = Kind("instruct", optional=("context",), refuses_long=True, answer_tokens=128, example="dolly")
DESCRIBE = Kind("describe", answer_tokens=64, judged_by="descriptions", repeats_prompt=True, example="e2e")
TEXT = Kind("text", keeps_space=True, example="text")
CLASSIFY = Kind("classify", refuses_long=True, generates=False)
KINDS = {kind.name: kind for kind in (CHAT, QA, TEXT, INSTRUCT, COMPLETE, DESCRIBE, CLASSIFY)}


@dataclass(frozen=True)
class Task:
    """What the commands need to know of a task.

    `load(split, data_dir)` reads one of `SPLITS`; a `data_dir` of None means the publisher's copy on the hub.
    `encode(examples, tokenizer, max_length)` turns examples into ids and labels. `prompt` makes, from `fields`,
    the example that generation continues; `encode_prompt(example, tokenizer, max_length)` its ids, several
    where one text is read in several windows. `sample` is the folder of the embedded sample, where there is one;
    `labels` names the classes.

    Of people's own data (`datasets/tasks/own`) more is known once they are there: `settle(data_dir)` makes the task
    with the labels that they have, and `measured_on(data_dir)` names the split that a finished run is measured on.
    `own`: it reads such data, of which more is told before training.
    `teach(tokenizer, template)` makes a base's tokenizer one of a run, which is kept with it.
    `parts_file`: a single file is parted into the splits; `load` reads all of it as WHOLE.
    """

    name: str
    kind: Kind
    fields: tuple[str, ...]
    load: Callable[[str, Path | None], Dataset]
    encode: Callable[[Sequence[Example], object, int], EncodedSet]
    prompt: Callable[..., Example]
    encode_prompt: Callable[[Example, object, int], list[np.ndarray]]
    sample: Path | None = None
    labels: tuple[str, ...] = ()
    own: bool = False
    settle: Callable[[Path | None], Task] | None = None
    teach: Callable[[Any, str | None], None] | None = None
    measured_on: Callable[[Path | None], str] = lambda data_dir: "test"
    parts_file: bool = False

    @property
    def needed(self) -> list[str]:
        """The fields that every input must have."""
        return [name for name in self.fields if name not in self.kind.optional]

    def asked(self, fields: dict[str, str], history: Sequence[str] = ()) -> Example:
        """The example that an input's fields make; where the kind remembers, behind the turns before it."""
        if self.kind.remembers:
            *others, last = self.fields
            standing = {name: fields[name] for name in others if name in fields}
            return self.prompt([*history, fields[last]], **standing)
        return self.prompt(**fields)
