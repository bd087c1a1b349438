"""What to answer, from the command line or from a file of JSON lines."""

from pathlib import Path

from common.errors import UserError
from datasets import records
from datasets.example import Task

OPTIONAL = {"instruct": {"context"}}  # fields that an input may leave out, by the task's kind


def read_requests(path: Path, task: Task) -> list[dict[str, str]]:
    """The task's fields of each line; where there is one field, it may also be called `prompt`.

    Raises UserError, with file and line, for what is missing, empty or no text.
    """
    optional = OPTIONAL.get(task.kind, set())
    needed = [name for name in task.fields if name not in optional]
    found = []
    for where, record in records.records(path, ()):
        if "prompt" in record and len(needed) == 1:
            record = {needed[0]: record["prompt"]} | record
        if missing := [name for name in needed if name not in record]:
            raise UserError(f"{where}: the field {missing[0]!r} is missing: {task.name} needs {', '.join(needed)}")
        present = [name for name in task.fields if name in record]
        found.append({name: records.text(record, name, where, name in needed) for name in present})
    return found


def typed_request(given: dict[str, str | None], task: Task) -> dict[str, str] | None:
    """The task's fields as they were typed, None where none was; where one is needed, `--prompt` will do.

    Raises UserError for a field that is missing, empty, or not this task's.
    """
    optional = OPTIONAL.get(task.kind, set())
    needed = [name for name in task.fields if name not in optional]
    typed = {name: value for name, value in given.items() if value is not None}
    if "prompt" in typed and len(needed) == 1:
        typed[needed[0]] = typed.pop("prompt")
    if foreign := [f"--{name}" for name in typed if name not in task.fields]:
        wanted = ", ".join(f"--{name}" for name in task.fields)
        raise UserError(f"{foreign[0]} says nothing to {task.name}, which takes {wanted}")
    if not typed:
        return None
    for name in needed:
        if not typed.get(name, "").strip():
            raise UserError(f"--{name} is " + ("empty; give it some text" if name in typed else "missing"))
    return {name: typed[name] for name in task.fields if name in typed}
