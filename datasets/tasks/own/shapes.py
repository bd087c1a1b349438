"""The shapes of records: which columns each has, and the example that is made of one.

A shape is data. The first one whose columns are all there is a file's shape; other names of columns are given as
`--columns prompt=question`.
"""

import difflib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from common.errors import ParameterError, UserError
from common.terminal import some
from datasets.example import Example, Segment
from datasets.tasks import dolly, emotion
from datasets.tasks.own import conversations
from datasets.tasks.own.cells import Unusable, cell
from datasets.tasks.text import beginning

WHOLE = re.compile(r"-?[0-9]+\.0")  # how tables of numbers write a whole one where a cell of the column is empty
SHOWN = 40  # characters of a column's name in an error

# an example out of a record's fields and its place; what is noted of several is counted
Maker = Callable[[dict, str, Counter], Example]


@dataclass(frozen=True)
class Shape:
    """The columns of a record that are `needed`, those that are `optional`, and what makes an example of them."""

    needed: tuple[str, ...]
    make: Maker
    optional: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """All that is read of a record."""
        return (*self.needed, *self.optional)

    @property
    def name(self) -> str:
        """What it is called."""
        return "/".join(self.needed)


def completion(record: dict, where: str, notes: Counter) -> Example:
    """A prompt and what continues it. Where no space is between the two, the completion begins with one."""
    if conversations.are_messages(record["prompt"]):
        raise ParameterError("{0}: the prompt is a list of messages, which {task} chat reads: give that", where)
    before, said = (cell(record, name, where) for name in ("prompt", "completion"))
    if not said.strip():
        raise Unusable("the completion is empty")
    if not before:
        return plain({"text": said}, where, notes)
    said = said if before[-1].isspace() or said[0].isspace() else f" {said}"
    return Example((*beginning(before).segments, Segment(said, scored=True)), where)


def plain(record: dict, where: str, notes: Counter) -> Example:
    """A text that is learnt from its first word to its last."""
    text = cell(record, "text", where)
    if not text.strip():
        raise Unusable("the text is empty")
    return Example((Segment(text, scored=True),), where)


def instruction(answer: str, context: str, record: dict, where: str, notes: Counter) -> Example:
    """An instruction, perhaps with a context, and the answer, which is scored to its end."""
    asked, about, said = (cell(record, name, where) for name in ("instruction", context, answer))
    if not asked.strip() or not said.strip():
        raise Unusable(f"the {'instruction' if said.strip() else answer} is empty")
    given = dolly.prompt(asked, about).segments
    return Example((*given, Segment(said.strip(), scored=True)), where)


def classified(record: dict, where: str, notes: Counter) -> Example:
    """A text and its label's name, which is the example's `name` until labels have numbers."""
    text, label = cell(record, "text", where), label_name(record, where)
    if not text.strip() or not label:
        raise Unusable(f"the {'label' if text.strip() else 'text'} is empty")
    return Example(emotion.prompt(text).segments, where, name=label)


def label_name(record: dict, where: str) -> str:
    """A label as text, "" where there is none: a text without the space around it, a whole number's digits."""
    value = record.get("label")
    if isinstance(value, bool):
        return str(value).lower()  # as JSON spells it
    text = cell(record, "label", where).strip()
    if isinstance(value, float) and text and not value.is_integer():
        raise UserError(f"{where}: the label {value} is neither text nor a whole number: classes have names")
    return text[:-2] if WHOLE.fullmatch(text) else text


PAIR = ("prompt", "completion")
SYNONYMS = {"input": "context", "context": "input"}  # what instructions are about, in the two shapes that they have
# each task's shapes, the first that fits is taken
SHAPES = {
    "chat": (
        Shape(("messages",), partial(conversations.of_messages, "messages")),
        Shape(("conversations",), partial(conversations.of_messages, "conversations")),
        Shape(PAIR, conversations.of_pair),
    ),
    "instruct": (
        Shape(("instruction", "output"), partial(instruction, "output", "input"), ("input",)),
        Shape(("instruction", "response"), partial(instruction, "response", "context"), ("context",)),
    ),
    "complete": (Shape(PAIR, completion), Shape(("text",), plain)),
    "classify": (Shape(("text", "label"), classified),),
}


def known_columns(task: str) -> list[str]:
    """All columns that shapes of a task have."""
    return list(dict.fromkeys(name for shape in SHAPES[task] for name in shape.columns))


def parse_columns(task: str, given: Sequence[str]) -> dict[str, str]:
    """`["prompt=question"]` as {"prompt": "question"}. Raises UserError for what is no column of the task's shapes."""
    columns: dict[str, str] = {}
    for text in given:
        ours, equals, theirs = (part.strip() for part in text.partition("="))
        if not equals or not ours or not theirs:
            raise ParameterError("{columns} takes NAME=COLUMN, such as prompt=question, not {0!r}", text)
        if ours not in known_columns(task):
            near = difflib.get_close_matches(ours, known_columns(task), n=1)
            hint = f"did you mean {near[0]}?" if near else f"{task} has {', '.join(known_columns(task))}"
            raise ParameterError("{columns}: there is no {0!r}: {1}", ours, hint)
        if ours in columns or theirs in columns.values():
            raise ParameterError("{columns}: {0!r} says a name that was given already", text)
        columns[ours] = theirs
    return columns


def recognise(task: str, fields: Sequence[str], columns: Mapping[str, str], path: object) -> tuple[Shape, dict]:
    """The shape of a file with these `fields`, and what the file calls each of its columns, {ours: theirs}.

    Capitals make no difference. A column that was named must be there. Raises UserError where no shape fits.
    """
    free = _by_name([name for name in fields if name not in columns.values()])
    columns = {
        ours: theirs if theirs in fields else free.get(theirs.lower(), theirs) for ours, theirs in columns.items()
    }
    if missing := [theirs for theirs in columns.values() if theirs not in fields]:
        raise ParameterError("{0} has no column {1!r} ({columns}): it has {2}", path, missing[0], _shown(fields))
    named = _by_name([name for name in fields if name not in columns.values()]) | columns
    for shape in sorted(SHAPES[task], key=lambda shape: -len(columns.keys() & {*shape.columns})):
        if all(name in named for name in shape.needed):
            return shape, {name: named[name] for name in shape.columns if name in named} | _others(shape, columns)
    wanted = " or ".join(shape.name for shape in SHAPES[task])
    example = next((name for shape in SHAPES[task] for name in shape.needed if name not in named), "text")
    raise ParameterError(
        "{0} has the columns {1}, {2} needs {3}: name yours with {columns} {4}=NAME …, or choose another {task}",
        *(path, _shown(fields), task, wanted, example),
    )


def _by_name(fields: Sequence[str]) -> dict[str, str]:
    """Fields by their names in small letters: of several that differ in capitals alone, the one that has none."""
    lowered = {name.strip().lower(): name for name in reversed(fields)}
    return lowered | {name: name for name in fields if name in lowered}


def _others(shape: Shape, columns: Mapping[str, str]) -> dict[str, str]:
    """Columns that were named as a sibling shape calls them, by this one's names. Raises UserError for others."""
    found = {}
    for ours, theirs in columns.items():
        if ours not in shape.columns:
            other = SYNONYMS.get(ours)
            if other not in shape.columns or other in columns:
                template = "{columns}: there is no {0!r} in {1}, which has {2}"
                raise ParameterError(template, ours, shape.name, ", ".join(shape.columns))
            found[other] = theirs
    return found


def task_of(fields: Sequence[str], columns: Sequence[str], path: object) -> str:
    """The task whose records have these `fields`, where nobody said it; `columns` as they were typed.

    A prompt and a completion alone are taken for a text and its continuation. Raises UserError where no shape fits.
    """
    there = {name.strip().lower() for name in fields} | {text.partition("=")[0].strip() for text in columns}
    for task in ("chat", "instruct", "classify", "complete"):
        if any(there.issuperset(shape.needed) for shape in SHAPES[task] if shape.needed != PAIR or task == "complete"):
            return task
    raise ParameterError("{0} has the columns {1}: say what they are with {task}, and {columns}", path, _shown(fields))


def _shown(fields: Sequence[str]) -> str:
    return some([name if len(name) <= SHOWN else f"{name[:SHOWN]}…" for name in fields])
