"""The tasks by name: those of publishers' data, and those that read data of one's own."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import ParameterError, UserError
from datasets.read import read_text
from datasets.task import Task
from datasets.tasks import dailydialog, dolly, e2e, emotion, imdb, rte, squad, text
from datasets.tasks.own import tasks as own
from datasets.tasks.own.files import guessed_task

TASKS = {module.TASK.name: module.TASK for module in (dailydialog, squad, imdb, dolly, emotion, rte, e2e, text)}


def find(name: str, run: Mapping[str, Any] | None = None) -> Task:
    """The task called `name`, where it is that of a `run` as the run's arguments have it.

    Raises UserError, with the nearest right name, where there is none.
    """
    if name in TASKS:
        return TASKS[name]
    if name in own.TASKS:
        return own.of_run(name, run if run and run.get("task") == name else {})
    near = difflib.get_close_matches(name, [*TASKS, *own.TASKS], n=1)
    all_names = f"{', '.join(sorted(TASKS))}; for data of your own {', '.join(own.TASKS)}"
    raise UserError(
        f"there is no task {name!r}: " + (f"did you mean {near[0]}?" if near else f"choose from {all_names}")
    )


def guessed(folder: str | None, file: str | None, columns: Sequence[str]) -> str:
    """The name of the task that data of one's own look like. Raises UserError where there are none, or none it is."""
    if folder is None and file is None:
        raise ParameterError("nothing to report on: give a file with {data}, a folder with {data_dir}, or {task}")
    return guessed_task(data_path(own.TASKS["complete"], folder, file), columns)


def settled(task: Task, run: Mapping[str, Any]) -> Task:
    """The task of a run that is to be trained, with the labels that its data have, where it has none yet.

    Raises UserError where the run's arguments do not go together, or the labels cannot be had.
    """
    check_settings(task, run)
    if task.settle is None:
        return task
    return task.settle(data_path(task, run.get("data_dir"), run.get("data")))


def check_settings(task: Task, run: Mapping[str, Any]) -> None:
    """Raises UserError where a run's arguments say something of data of one's own, and the task is a publisher's."""
    if task.name in TASKS and (said := [name for name in own.SETTINGS if run.get(name) is not None]):
        template = f"{{{said[0]}}} says something of your own data, and {{task}} {{0}} is a publisher's: leave it out"
        raise ParameterError(template, task.name)


def data_path(task: Task, folder: str | None, file: str | None) -> Path | None:
    """Where the data are, by the parameters `data_dir` and `data`; None is the hub's copy.

    Raises UserError where both are given, or there is no such folder or file.
    """
    if file is None:
        return data_dir(task, folder)
    if folder is not None:
        raise ParameterError("{data} and {data_dir} exclude each other: give one")
    path = Path(file)
    if not path.is_file():
        wrong = "is a folder: give it with {data_dir}" if path.is_dir() else "is no file: give one of {task} data"
        raise ParameterError("{data} {path} " + wrong, path=path, task=task.name)
    return path


def chat_template(task: Task, path: str | None) -> str | None:
    """The template that a file holds, None where none is given.

    Raises UserError where the task has no use for one, and where the file is empty.
    """
    if path is None:
        return None
    if task.teach is None:
        raise ParameterError("{chat_template} is for conversations, {task} chat: leave it out of {0}", task.name)
    template = read_text(Path(path)).strip()
    if not template:
        raise ParameterError("{chat_template} {0} is empty: give another file", path)
    return template


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
