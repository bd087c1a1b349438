"""Everything that decides a training run, once, in one typed dataclass.

The command line, recipes and `arguments.yaml` derive from it: command line > recipe > defaults. Defaults that depend
on the data or on each other are None here and settled in `training/setup.py`.
"""

import argparse
import dataclasses
import difflib
import math
import os
import reprlib
import types
import typing
from pathlib import Path
from typing import Any

import yaml

from common.errors import Faults, UserError
from common.files import read_yaml, write_text
from gpt2_jittor.precisions import PRECISIONS, check_precision
from training.schedule import SCHEDULES

_SHORT = reprlib.Repr()  # of what was written instead of a value: as deep as it goes by default, it fills pages
_SHORT.maxlevel = 2

TUNINGS = ("lora", "full")
MOST_EPOCHS = 1_000_000  # of any data: more is a slip, and beyond what steps can be counted in
MOST = 10**15  # of anything that is counted: shares of it are exact in a float
# what may differ when a run is taken up again: how long it is, how often it saves, and where things lie
RESUMABLE = {"epochs", "max_steps", "patience", "save_every", "data_dir", "output_dir", "device"}


def option(default: Any, help: str, choices: tuple[str, ...] | None = None, many: bool = False) -> Any:
    """A field with what the command line says about it."""
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices, "many": many})


@dataclasses.dataclass(frozen=True)
class TrainingArguments:
    """A run. A value of None is settled once the data is read (`training/setup.py`), or means "not used"."""

    task: str = option("dailydialog", "what to train on")
    model: str = option("nano", "nano, gpt2, gpt2-medium, …, or a folder in Hugging Face's layout")
    data_dir: str | None = option(None, "local data; `sample` is the embedded sample; else the hub's copy")
    output_dir: str | None = option(None, "the run's folder; else runs/<task>-<model>-<tuning>")
    tuning: str = option("lora", "train an adapter, or every weight", choices=TUNINGS)
    lora_r: int = option(8, "rank of the adapter")
    lora_alpha: float = option(16.0, "the adapter's product is scaled by alpha / r")
    lora_dropout: float = option(0.05, "dropout before the adapter")
    lora_targets: list[str] | None = option(
        None, "projections to adapt: names, or one regular expression; else c_attn c_proj c_fc", many=True
    )
    lora_bias: str = option("none", "biases to train besides", choices=("none", "all", "lora_only"))
    lora_modules_to_save: list[str] | None = option(None, "modules to train whole, such as lm_head", many=True)
    lora_rslora: bool = option(False, "scale by alpha / sqrt(r) instead")
    added_tokens: list[str] | None = option(
        None, "new tokens, whose rows are trained; <USER> and <BOT> open a dialogue's turns, <END> ends them", many=True
    )
    head_dropout: float = option(0.0, "dropout before the language model's head")
    epochs: float | None = option(None, "passes over the training data; a fraction is allowed")
    max_steps: int | None = option(None, "updates, instead of epochs")
    batch_size: int = option(8, "examples in one forward pass, of all processes together")
    gradient_accumulation: int = option(1, "forward passes in one update")
    learning_rate: float | None = option(None, "peak; else 5e-4 for LoRA, 5e-5 for full tuning")
    schedule: str = option("linear", "of the learning rate after warm-up", choices=SCHEDULES)
    warmup_steps: int | None = option(None, "updates of warm-up; else 3 %% of the run")
    weight_decay: float = option(0.01, "AdamW's, on matrices")
    max_grad_norm: float = option(1.0, "gradients are clipped to this norm; 0: not at all")
    max_length: int | None = option(None, "longest example in tokens; else 512, or the model's positions")
    seed: int = option(0, "of data order, dropout and adapter")
    eval_every: int | None = option(
        None, "updates between validations; else one an epoch, 10 in a run at least, fewer where they would take long"
    )
    eval_limit: int | None = option(
        None,
        "examples of each validation, drawn with the seed; else all, as far as all validations take a tenth of the run",
    )
    save_every: int | None = option(None, "updates between checkpoints; else at each validation")
    skip_nonfinite: bool = option(False, "go on behind updates whose loss or gradients are not finite")
    patience: int | None = option(None, "stop after this many validations without a better loss")
    device: str = option("auto", "where to train", choices=("auto", "cpu", "cuda"))
    precision: str = option("fp32", "of matrix products; fp16 and bf16 on CUDA alone", choices=PRECISIONS)

    def __post_init__(self):
        problems = list(_problems(self))
        if problems:
            raise UserError("; ".join(problems))

    @property
    def run_dir(self) -> Path:
        """The run's folder."""
        name = f"{self.task}-{Path(self.model).name}-{self.tuning}"
        return Path(self.output_dir) if self.output_dir else Path("runs") / name

    def save(self, path: Path) -> None:
        """Writes every value as YAML: a recipe that repeats the run."""
        write_text(path, yaml.safe_dump(dataclasses.asdict(self), sort_keys=False, allow_unicode=True))


FIELDS = {field.name: field for field in dataclasses.fields(TrainingArguments)}


def option_name(field: str) -> str:
    """`--max-steps` for max_steps."""
    return "--" + field.replace("_", "-")


def add_options(parser: argparse.ArgumentParser) -> None:
    """One option a field. Options that were not given are absent from what `parse_args` returns."""
    for field in FIELDS.values():
        kind = _plain_type(field.type)
        default = "" if field.default is None else f" (default: {field.default})"
        settings: dict[str, Any] = {"help": field.metadata["help"] + default, "default": argparse.SUPPRESS}
        if kind is bool:
            settings["action"] = argparse.BooleanOptionalAction
        else:
            settings |= {"type": kind, "choices": field.metadata["choices"], "metavar": _metavar(field)}
            settings |= {"nargs": "+"} if field.metadata["many"] else {}
        parser.add_argument(option_name(field.name), **settings)


def read_recipe(path: Path) -> dict[str, Any]:
    """A recipe's values, checked against the fields. Raises UserError that names the nearest right key."""
    values, faults = read_yaml(path), Faults()
    for key, value in values.items():
        with faults.gathered():
            if key not in FIELDS:
                near = difflib.get_close_matches(str(key), FIELDS, n=1)
                hint = f"did you mean {near[0]}?" if near else "`train.py --help` names all"
                raise UserError(f"{path}: there is no setting {_SHORT.repr(key)}; {hint}")
            values[key] = _typed(value, FIELDS[key], path)
    faults.tell()
    return values


def over(recipe: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """A recipe's values with what was typed over them; one length of training replaces the other."""
    if {"epochs", "max_steps"} & given.keys():
        recipe = recipe | {"epochs": None, "max_steps": None}
    return recipe | given


def resolve(given: dict[str, Any], recipe: dict[str, Any] | None = None, path: Path | None = None) -> TrainingArguments:
    """The arguments of a run from what was typed and, under it, a recipe, whose `path` an error of its own names."""
    recipe = recipe or {}
    if path is not None:
        try:
            TrainingArguments(**recipe)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
    return TrainingArguments(**over(recipe, given))


def resolve_resumed(given: dict[str, Any], run_dir: Path) -> tuple[TrainingArguments, TrainingArguments]:
    """The arguments of the run in `run_dir` with what is `given` now, and as they were.

    Raises UserError for what must not change.
    """
    recipe = run_dir / "arguments.yaml"
    if not recipe.is_file():
        raise UserError(f"{run_dir} holds no run to resume ({recipe.name} is missing); start without --resume")
    before = read_recipe(recipe)
    changed = [
        f"{option_name(name)} (was {before.get(name)})"
        for name, value in given.items()
        if name not in RESUMABLE and value != before.get(name)
    ]
    if given.get("patience", math.inf) < (before.get("patience") or math.inf):
        changed.append(f"--patience {given['patience']} (was {before.get('patience')}; it may only grow)")
    if changed:
        raise UserError(f"--resume goes on with the run as it was: leave out {', '.join(changed)}")
    return resolve(given | {"output_dir": str(run_dir)}, before, recipe), TrainingArguments(**before)


def _typed(value: Any, field: dataclasses.Field, path: Path) -> Any:
    kind = _plain_type(field.type)
    if value is None and field.default is None:
        return None
    if field.metadata["many"]:
        value = [value] if isinstance(value, str) else value
        if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
            return value
    elif kind is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 5e-4, without a dot, as text
        except (ValueError, OverflowError):  # OverflowError: a whole number of hundreds of digits
            pass
    elif type(value) is kind:
        choices = field.metadata["choices"]
        if choices and value not in choices:
            raise UserError(f"{path}: {field.name} must be one of {', '.join(choices)}, not {value!r}")
        return value
    raise UserError(f"{path}: {field.name} must be {kind.__name__}, not {_SHORT.repr(value)}")


def _plain_type(annotation: Any) -> type:
    """int for int | None, str for list[str] | None."""
    if isinstance(annotation, types.UnionType):
        annotation = next(kind for kind in typing.get_args(annotation) if kind is not type(None))
    return typing.get_args(annotation)[0] if typing.get_origin(annotation) is list else annotation


def _metavar(field: dataclasses.Field) -> str:
    choices = field.metadata["choices"]
    return "{" + ",".join(choices) + "}" if choices else _plain_type(field.type).__name__.upper()


def _problems(arguments: TrainingArguments):
    at_least = {"lora_r": 1, "max_steps": 1, "batch_size": 1, "gradient_accumulation": 1, "max_length": 2}
    at_least |= {
        "eval_every": 1,
        "eval_limit": 1,
        "save_every": 1,
        "patience": 1,
        "warmup_steps": 0,
        "seed": 0,
    }
    at_least |= {"weight_decay": 0, "max_grad_norm": 0, "lora_dropout": 0, "head_dropout": 0}
    for name, least in at_least.items():
        value = getattr(arguments, name)
        if value is not None and not least <= value < float("inf"):
            yield f"{option_name(name)} must be at least {least}, not {value}"
    for name in at_least:
        value = getattr(arguments, name)
        if isinstance(value, int) and name != "seed" and value > MOST:
            yield f"{option_name(name)} must be at most {MOST:,}"
    for name, most in {"epochs": MOST_EPOCHS, "learning_rate": math.inf, "lora_alpha": math.inf}.items():
        value = getattr(arguments, name)
        if value is not None and not 0 < value < math.inf:
            yield f"{option_name(name)} must be positive, not {value}"
        elif value is not None and value > most:
            yield f"{option_name(name)} must be at most {most:,}, not {value}"
    for name in FIELDS:
        value = getattr(arguments, name)
        if any(not _is_nameable(text) for text in (value if isinstance(value, list) else [value])):
            yield f"{option_name(name)} holds NUL or half of a character, which no name can: give another"
    for name in ("lora_dropout", "head_dropout"):
        if getattr(arguments, name) >= 1:
            yield f"{option_name(name)} must be below 1, not {getattr(arguments, name)}"
    if arguments.epochs is not None and arguments.max_steps is not None:
        yield "--epochs and --max-steps exclude each other: give one"
    try:
        check_precision(arguments.precision, "cpu" if arguments.device == "cpu" else "auto")
    except UserError as error:
        yield str(error)


def _is_nameable(value: object) -> bool:
    """Whether the system can take a text as a name: any bytes but NUL can be one, UTF-8 or not."""
    try:
        return not isinstance(value, str) or b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        return False
