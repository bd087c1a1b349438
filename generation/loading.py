"""From a run, an adapter or a model to an engine; and whether what was trained can do what a task asks."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import ParameterError, UserError
from common.options import option
from datasets import tasks
from datasets.task import Task
from generation.engine import Engine
from generation.options import GenerationOptions, check_typed, choose
from gpt2_jittor.runtime.precision import PRECISIONS, WEIGHTS, check_precision
from lora.files import SETTINGS
from lora.source import ARGUMENTS, ModelSource, find


@dataclass(frozen=True)
class ModelOptions:
    """Which model is used, how its numbers are kept, and where."""

    adapter: Path | None = option(None, "a run's folder, or a plain LoRA adapter of PEFT's", metavar="RUN")
    model: str | None = option(None, "base model: a name or a folder; else the adapter's own, else nano")
    ignore_base: bool = option(False, "use the adapter on another base than its own", flag=True)
    weights: str = option(
        "fp32", "in which they are kept on the CPU: in bf16 half, in int8 a quarter", choices=WEIGHTS, short=("int8",)
    )
    precision: str = option("fp32", "of matrix products", choices=PRECISIONS)
    device: str = option("auto", "where to compute", choices=("auto", "cpu", "cuda"))


def load(
    name: str | Path,
    model: str | None = None,
    task: str | None = None,
    *,
    weights: str = "fp32",
    int8: bool = False,
    precision: str = "fp32",
    device: str = "auto",
    ignore_base: bool = False,
    **options: Any,
) -> Engine:
    """An engine for a run's folder, an adapter's, or a model's name.

    `options` are those of `GenerationOptions`, each else as the model's folder says of generation, else its default.

        engine = generation.load("runs/mine")
        engine.answer("Hello!")

    `model`: another base for an adapter. `task`: whose prompts are used, else the run's own, else text that is
    continued. `int8`: short for `weights="int8"`. Raises UserError for what is missing, damaged, or does not fit.
    """
    from gpt2_jittor.runtime import runtime

    adapter = Path(name) if (Path(name) / SETTINGS).is_file() else None
    if model is not None and adapter is None:
        raise ParameterError("{model} is another base for an adapter, and {0} is none: leave it out", name)
    source = find(model if adapter else str(name), adapter, ignore_base)
    chosen = find_task(source, task or source.task or "text", source.arguments)
    check_task(source, chosen)
    check_typed(options)
    given, _ = options_for(source, chosen, options)
    if int8 and weights not in ("fp32", "int8"):
        raise ParameterError("{int8} is short for {weights} int8: leave it out, or {weights} {0}", weights)
    weights = "int8" if int8 else weights
    check_weights(weights, precision, device)
    check_weights(weights, precision, runtime.prepare(device))
    return engine_for(source, chosen, given, weights, precision)


def find_task(source: ModelSource, name: str, run: Mapping[str, Any]) -> Task:
    """The task called `name`, as the arguments of a `run` have it. What they do not say of a classifier's labels, the
    model's folder does.

    Raises UserError where there is no such task, and for a classifier whose labels stand nowhere.
    """
    task = tasks.find(name, run)
    if task.settle is None or not source.classifies:
        return task
    if not source.base.classifies:
        raise UserError(
            f"{source.folder} does not say what its classes are called: give its run's folder, with {ARGUMENTS}, "
            "or a model that was merged with `python -m lora merge --labels`"
        )
    return tasks.find(name, {**run, "task": name, "labels": list(source.base.config.labels)})


def options_for(source: ModelSource, task: Task, given: dict[str, Any]) -> tuple[GenerationOptions, str]:
    """The options of a task's engine: those given, by name, else as the model's folder says; and what that says.

    A classifier chooses no tokens, and asks no folder. Raises UserError for what is out of range.
    """
    if not task.kind.generates:
        return GenerationOptions(**given), ""
    options, note = choose(given, source.generation, source.ends())
    options.check(source.config)
    return options, note


def engine_for(
    source: ModelSource,
    task: Task,
    options: GenerationOptions | None = None,
    weights: str = "fp32",
    precision: str = "fp32",
    max_length: int | None = None,
) -> Engine:
    """Reads the model of a source that was checked for the task. `max_length`: else as its run had it.

    Raises UserError where a tensor does not fit.
    """
    from lora.load import load

    model = load(source.with_labels(task.labels), weights, precision)
    return Engine(model, source.tokenizer, task, options, max_length or source.arguments.get("max_length"))


def check_task(source: ModelSource, task: Task, bare: bool = False) -> None:
    """Raises UserError where what was trained cannot do the task: a classifier cannot talk, nor a talker classify.

    `bare`: a language model may stand under a classifier's head that was never trained.
    """
    trained = source.task
    what = f"{source.folder}" + (f" (trained on {trained})" if trained else "")
    if task.kind.generates:
        if source.classifies:
            named = "" if trained else ", or name its own {task}"
            raise ParameterError(
                "{0} is a classifier, or its base is: {1} needs a language model; give one" + named, what, task.name
            )
    elif not source.classifies:
        if source.adapter is not None or not bare:
            raise UserError(f"{what} is no classifier, which {task.name} needs: train one, or give its run")
    elif trained not in (None, task.name):
        raise UserError(f"{what} tells other classes apart than {task.name}'s; give another")


def check_weights(weights: str, precision: str, device: str) -> None:
    """Raises UserError where there are no such weights; where int8 or bf16 ones are asked for on CUDA; for products in
    16 bits on the CPU; and for both together.
    """
    if weights not in WEIGHTS:
        raise ParameterError("{weights} must be one of {0}, not {1!r}", ", ".join(WEIGHTS), weights)
    asked = "{weights} int8 ({int8})" if weights == "int8" else f"{{weights}} {weights}"
    if weights != "fp32" and precision != "fp32":
        raise ParameterError(f"{asked} and {{precision}} {{0}} exclude each other: give one", precision)
    if weights != "fp32" and device == "cuda":
        raise ParameterError(f"{asked} works on the CPU only: leave it out, or give {{device}} cpu")
    check_precision(precision, device)
