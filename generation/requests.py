"""What to answer, from the command line or from a file of JSON lines."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import ParameterError, UserError, listed
from datasets import records
from datasets.task import Task


@dataclass(frozen=True)
class Request:
    """One input: the task's `fields`, what else its line holds (`more`, an id perhaps), and where it stands."""

    fields: dict[str, str]
    more: dict[str, Any] = field(default_factory=dict)
    where: str = ""


def read_requests(path: Path, task: Task) -> list[Request]:
    """The task's fields of each line; where there is one field, it may also be called `prompt`.

    They are as they stand there: what a task trims, it trims itself. Raises UserError, with file and line, for what
    is missing, empty or no text.
    """
    if Path(path.name.removesuffix(".gz")).suffix != ".jsonl":
        raise ParameterError("{0}: {input} reads JSON lines, a file called .jsonl or .jsonl.gz", path)
    needed, found = task.needed, []
    for where, record in records.records(path, (), f"one line with {', '.join(needed)} for each input"):
        if "prompt" in record and len(needed) == 1:
            if needed[0] != "prompt" and needed[0] in record:
                raise UserError(f"{where}: the fields 'prompt' and {needed[0]!r} say the same: keep one")
            record[needed[0]] = record.pop("prompt")
        if missing := [name for name in needed if name not in record]:
            raise UserError(f"{where}: the field {missing[0]!r} is missing: {task.name} needs {', '.join(needed)}")
        fields = {name: record[name] for name in task.fields if name in record}
        for name in fields:
            blank = task.kind.keeps_space and fields[name]  # to text that is continued, space is text
            records.text(record, name, where, name in needed and not blank)
        more = {name: value for name, value in record.items() if name not in fields}
        if half := records.SURROGATE.search(json.dumps(more, ensure_ascii=False)):  # it could not be written again
            raise UserError(f"{where}: a field holds half of a character ({half[0]!r}): mend or remove the line")
        found.append(Request(fields, more, where))
    return found


def typed_text(text: str) -> str:
    """What was typed, read as UTF-8 where the locale has no such characters. Raises UserError where it is none."""
    if not records.SURROGATE.search(text):
        return text
    try:
        return os.fsencode(text).decode("utf-8")
    except UnicodeError:
        raise UserError("what was typed is not UTF-8 text; check the terminal's encoding") from None


def typed_request(given: dict[str, str | None], task: Task) -> dict[str, str] | None:
    """The task's fields as they were typed, None where none was; where one is needed, `--prompt` will do.

    A context alone is one that questions are going to be asked about. Raises UserError for a field that is missing,
    empty (text that is continued may be nothing but space), or not this task's.
    """
    needed = task.needed
    typed = {name: value for name, value in given.items() if value is not None}
    if "prompt" in typed and len(needed) == 1:
        if needed[0] != "prompt" and needed[0] in typed:
            raise ParameterError(f"{{prompt}} and {{{needed[0]}}} say the same to {task.name}: give one")
        typed[needed[0]] = typed.pop("prompt")
    if foreign := [name for name in typed if name not in task.fields]:
        raise ParameterError(f"{listed(foreign[:1])} says nothing to {task.name}, which takes {listed(task.fields)}")
    if not typed:
        return None
    if list(typed) == [task.kind.standing]:
        needed = list(typed)
    for name in needed:
        value = typed.get(name, "")
        if not (value if task.kind.keeps_space else value.strip()):
            raise ParameterError(f"{{{name}}} is " + ("empty; give it some text" if name in typed else "missing"))
    return {name: typed[name] for name in task.fields if name in typed}
