"""Measures a model on a task, each figure with its 95 % interval: loss, perplexity, and what the task is judged by.

python evaluate.py --adapter runs/dailydialog-nano-lora                    # the base stands beside it
python evaluate.py --task squad --data-dir data/squad --adapter RUN --predictions answers.json
python evaluate.py --task emotion --data-dir data/emotion --adapter RUN    # and a confusion matrix, RUN/confusion.png
python evaluate.py --adapter runs/e2e-gpt2-lora --num-beams 10 --length-penalty 0.8 --no-repeat-ngram 4
python evaluate.py --task dailydialog --model nano --loss-only --json
"""

import argparse
import dataclasses
import filecmp
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.command import Parser, run_command
from common.errors import ParameterError, UserError
from common.files import check_picture, check_writable
from common.options import add_options, option, option_name, problems, typed
from datasets import tasks
from datasets.encode import report
from datasets.example import SPLITS, WHOLE
from datasets.task import Task
from generation.loading import ModelOptions, check_task, check_weights, engine_for, find_task
from generation.options import GenerationOptions, check_typed
from gpt2_jittor.checkpoint.stored import SCORE
from gpt2_jittor.runtime.demand import check_forward
from lora.source import ModelSource, find

CHOOSING = ("num_beams", "length_penalty", "no_repeat_ngram_size")  # how answers are found, else greedily


@dataclass(frozen=True)
class EvaluationOptions:
    """What is measured on what, and what becomes of the figures."""

    task: str | None = option(None, "what to measure on; else what the run was trained on")
    data_dir: str | None = option(None, "local data, or `sample`; else the run's own, else the hub's copy")
    data: str | None = option(None, "a file of your own data, instead", metavar="FILE")
    columns: list[str] | None = option(None, "what your data call a column; else as the run", metavar="NAME=COLUMN")
    split: str | None = option(
        None, "which split of the data; else test, or validation of your own data without one", choices=SPLITS
    )
    max_length: int | None = option(None, "longest example in tokens; else the run's own, else 512")
    limit: int | None = option(None, "measure on this many examples; else on all", at_least=1)
    batch_size: int = option(16, "examples measured together", at_least=1)
    loss_only: bool = option(False, "generate nothing: loss, perplexity and classes alone", flag=True)
    max_new_tokens: int | None = option(
        None, "longest generated answer; else 32 (qa), 40 (chat), 64 (describe), 128 (instruct, complete)", at_least=1
    )
    num_beams: int = option(1, "beam search instead of greedy answers", at_least=1)
    length_penalty: float = option(1.0, "of the beams: above 0 longer answers gain")
    no_repeat_ngram_size: int = option(0, "never the same n tokens twice; 0: off")
    predictions: Path | None = option(
        None, "write what the model said, as SQuAD's or the E2E challenge's script reads it", metavar="FILE"
    )
    confusion: Path | None = option(None, "draw who was taken for whom", metavar="FILE.png")
    json: bool = option(False, "print JSON instead of a table", flag=True)


def parse() -> tuple[ModelOptions, EvaluationOptions]:
    """The options. Raises UserError for a number out of range."""
    parser = Parser(prog="evaluate.py", description=__doc__)
    add_options(parser, ModelOptions)
    add_options(parser, EvaluationOptions)
    parsed: argparse.Namespace = parser.parse_args()
    found = typed(EvaluationOptions, parsed)
    given = EvaluationOptions(**found)
    for problem in problems(given):
        raise problem
    check_typed({name: found[name] for name in CHOOSING if name in found})
    return ModelOptions(**typed(ModelOptions, parsed)), given


def main() -> None:
    """Measures, then prints the figures and writes what was asked for. The model is read last."""
    how, given = parse()
    from gpt2_jittor.runtime import runtime
    from training.setup import longest, read_split

    check_weights(how.weights, how.precision, how.device)
    source = find(how.model, how.adapter, how.ignore_base)
    run = source.arguments
    task, path = task_and_data(given, source)
    check_task(source, task, bare=True)
    check_outputs(given, task)
    options = answer_options(given, task, source)
    length = longest(run.get("max_length") if given.max_length is None else given.max_length, source.config)
    given = dataclasses.replace(given, split=given.split or split_of(task, path, run))
    dataset = read_split(task, given.split, path, given.limit)
    data = task.encode(dataset.examples, source.tokenizer, length)
    check_forward(source.config, min(given.batch_size, len(data)), max(data.lengths), "{batch_size}")
    if options:
        options.check(source.config, len(data))
    print(report(dataset, data), file=sys.stderr)
    check_weights(how.weights, how.precision, runtime.prepare(how.device))

    from evaluation.measure import measure, trivial
    from evaluation.report import Report, notes

    rows, seconds = {}, {}
    for name, (contestant, weights) in contestants(source, how.weights).items():
        started = time.perf_counter()
        engine = engine_for(contestant, task, options, weights, how.precision, length)
        measured = measure(engine, dataset, data, given.batch_size, generates=options is not None)
        rows[name], seconds[name] = measured.figures, time.perf_counter() - started
        del engine  # one model at a time
    if measured.unasked:
        print(f"{measured.unasked:,} prompts are too long; their answer counts as empty", file=sys.stderr)
    trivial_is, rows["trivial"] = trivial(task, dataset, data)
    said = [*notes(rows, not task.kind.generates and SCORE not in source.base.tensors), *measured.notes]
    shown = Report(task, given.split, how.precision, dataset, data, rows, seconds, trivial_is, said)
    try:
        write_files(given, source, task, measured)
    finally:  # behind the files, as nobody may be there to read it; yet a file that fails must not take it along
        print(shown.json() if given.json else shown.table())


def task_and_data(given: EvaluationOptions, source: ModelSource) -> tuple[Task, Path | None]:
    """What is measured on: the task and the place of its data, else those of the run.

    Raises UserError where there is no such place, or where a classifier's labels stand nowhere.
    """
    run = source.arguments
    name = given.task or run.get("task") or "dailydialog"
    said = run if name == run.get("task") else {"task": name}
    folder, file = said.get("data_dir"), said.get("data")
    own = file or folder
    if given.data or given.data_dir:
        folder, file = given.data_dir, given.data
        if not own or Path(own).resolve() != Path(file or folder).resolve():
            said = said | {"validation_share": None}  # which was the run's data's
    said = said | {"columns": given.columns or said.get("columns")}
    task = find_task(source, name, said)
    tasks.check_settings(task, {"columns": given.columns})
    path = tasks.data_path(task, folder, file)
    return (task.settle(path) if task.settle else task), path


def split_of(task: Task, path: Path | None, run: Mapping[str, Any]) -> str:
    """What is measured where no split was asked for: all of a file that is known to be another than the run's."""
    data, is_run = run.get("data_dir"), task.name == run.get("task")
    if not (task.parts_file and is_run and data and path is not None and path.is_file() and path.suffix != ".zip"):
        return task.measured_on(path)
    # a copy of what was trained on holds the same parts; what is not there any more may have been moved here
    trained_on = Path(data)
    is_other = trained_on.is_dir() or (trained_on.is_file() and not filecmp.cmp(trained_on, path, shallow=False))
    return WHOLE if is_other else task.measured_on(path)


def contestants(source: ModelSource, weights: str) -> dict[str, tuple[ModelSource, str]]:
    """What is measured side by side, and with which weights; the last one is what was asked for."""
    if source.adapter is None:
        several = {"model": (source, "fp32")}
    else:
        several = {"base": (source.without_adapter(), "fp32"), "adapter": (source, "fp32")}
    return several if weights == "fp32" else several | {weights: (source, weights)}


def answer_options(given: EvaluationOptions, task: Task, source: ModelSource) -> GenerationOptions | None:
    """How answers are generated, None where they are not. Of what the model's folder says its end tokens alone count:
    figures of different models are compared.
    """
    if given.loss_only or task.kind.answer_tokens is None:
        return None
    return GenerationOptions(
        max_new_tokens=given.max_new_tokens or task.kind.answer_tokens,
        greedy=True,
        **{name: getattr(given, name) for name in CHOOSING},
        batch_size=given.batch_size,
        end_ids=source.ends(),
    )


def check_outputs(given: EvaluationOptions, task: Task) -> None:
    """Raises UserError for a file that the task does not make."""
    if given.confusion and task.kind.generates:
        raise ParameterError("{confusion} needs classes, {0} has none: leave it out", task.name)
    if given.predictions and task.kind.generates and (given.loss_only or task.kind.answer_tokens is None):
        raise ParameterError("{predictions}: nothing is predicted for {0} here: leave it out", task.name)
    if given.confusion:
        check_picture(given.confusion, "{confusion}")
    for name in ("predictions", "confusion"):
        path = getattr(given, name)
        if path is not None and path.is_dir():
            raise ParameterError(f"{{{name}}} {{0}} is a folder: name a file in it", path)
        if path is not None and not path.exists():
            check_writable(path.parent, f"choose another {option_name(name)}")


def write_files(given: EvaluationOptions, source: ModelSource, task: Task, measured) -> None:
    """The predictions, where they were asked for, and a confusion matrix: there, too, else in the run's folder."""
    from evaluation.report import write_confusion, write_predictions
    from training.folder import check_own

    if given.predictions:
        write_predictions(given.predictions, task, measured)
    is_run = source.adapter is not None or bool(source.arguments)
    output = given.confusion or (source.folder / "confusion.png" if is_run else None)
    if task.kind.generates or output is None:
        return
    if given.confusion:
        write_confusion(output, task, given.split, measured)
        return
    try:
        check_own(source.folder, [output.name])
        write_confusion(output, task, given.split, measured)
    except UserError as error:  # nobody asked for it
        print(f"no confusion matrix was drawn: {error}", file=sys.stderr)


if __name__ == "__main__":
    run_command(main)
