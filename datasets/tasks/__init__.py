"""The tasks by name."""

import difflib
from pathlib import Path

from common.errors import ParameterError, UserError
from datasets.task import Task
from datasets.tasks import dailydialog, dolly, emotion, imdb, rte, squad, text

TASKS = {module.TASK.name: module.TASK for module in (dailydialog, squad, imdb, dolly, emotion, rte, text)}


def find(name: str) -> Task:
    """The task called `name`. Raises UserError, with the nearest right name, where there is none."""
    if name in TASKS:
        return TASKS[name]
    near = difflib.get_close_matches(name, TASKS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(sorted(TASKS))}"
    raise UserError(f"there is no task {name!r}: {hint}")


def data_dir(task: Task, value: str | None) -> Path | None:
    """What the parameter `data_dir` means: None is the hub's copy, "sample" the embedded sample, else a path.

    Raises UserError where the task has no sample, or where there is no such path.
    """
    if value is None:
        return None
    path = sample_dir(task) if value == "sample" else Path(value)
    if not path.exists():
        raise ParameterError(
            "{data_dir} {path} does not exist: give a folder of {task} data, or `sample`", path=path, task=task.name
        )
    if not path.is_dir() and not path.is_file():
        raise ParameterError("{data_dir} {path} is neither a folder nor a file: give one of them", path=path)
    return path


def sample_dir(task: Task) -> Path:
    """The folder of the task's embedded sample. Raises UserError where it has none."""
    if task.sample is None:
        raise ParameterError("the task {task} has no embedded sample: give a folder with {data_dir}", task=task.name)
    return task.sample
