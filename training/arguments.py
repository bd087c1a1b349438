"""Everything that decides a training run, once, in one typed dataclass.

The command line, recipes and `arguments.yaml` derive from it: command line > recipe > defaults. Defaults that depend
on the data or on each other are None here and settled in `training/plan.py`, or, where the model's folder decides, in
`training/setup.py`.
"""

import dataclasses
import difflib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from common.errors import ErrorCollector, ParameterError, UserError, joined
from common.files import read_yaml, write_text
from common.options import check_type, option, options_of, problems
from common.terminal import short
from gpt2_jittor.runtime.precision import BASES, PRECISIONS, check_base, check_precision
from lora.problems import changes_base
from training import trackers
from training.schedule import SCHEDULES

TUNINGS = ("lora", "full")
MOST_EPOCHS = 1_000_000  # of any data: more is a slip, and beyond what steps can be counted in
MOST = 10**15  # of anything that is counted: shares of it are exact in a float
# what may differ when a run is taken up again: how long it is, how often it saves, and where things lie
RESUMABLE = {
    "epochs",
    "max_steps",
    "patience",
    "save_every",
    "gradient_checkpointing",
    "data",
    "data_dir",
    "chat_template",
    "output_dir",
    "device",
    "report_to",
}


def count(default: int | None, help: str, at_least: int = 1) -> Any:
    """The field of something that is counted."""
    return option(default, help, at_least=at_least, at_most=MOST)


@dataclasses.dataclass(frozen=True)
class TrainingArguments:
    """A run. A value of None is settled once the data is read (`training/plan.py`), or means "not used"."""

    task: str = option("dailydialog", "what to train on; your own data are chat, instruct, complete or classify")
    model: str = option("nano", "nano, gpt2, gpt2-medium, …, or a folder in Hugging Face's layout")
    data_dir: str | None = option(None, "local data; `sample` is the embedded sample; else the hub's copy")
    data: str | None = option(None, "a file of your own data: JSON lines, JSON, CSV, TSV, .gz, Parquet", metavar="FILE")
    columns: list[str] | None = option(None, "what your data call a column: prompt=question", metavar="NAME=COLUMN")
    labels: list[str] | None = option(None, "a classifier's classes, in order; else those of your data")
    validation_share: float | None = option(
        None, "set apart of your own data where they have no validation file; else 0.1", above=0, below=1
    )
    chat_template: str | None = option(
        None,
        "what opens and closes a chat's turns, in Jinja; else as the tokenizer says, else ours",
        metavar="FILE",
    )
    output_dir: str | None = option(None, "the run's folder; else runs/<task>-<model>-<tuning>")
    tuning: str = option("lora", "train an adapter, or every weight", choices=TUNINGS)
    lora_r: int = count(8, "rank of the adapter")
    lora_alpha: float = option(16.0, "the adapter's product is scaled by alpha / r", above=0)
    lora_dropout: float = option(0.05, "dropout before the adapter", at_least=0, below=1)
    lora_targets: list[str] | None = option(
        None,
        "layers to adapt: names, or one regular expression; q, k and v are c_attn's parts; else c_attn c_proj c_fc",
    )
    lora_exclude: list[str] | None = option(None, "of these, names that are left out")
    lora_layers: list[int] | None = option(None, "blocks to adapt, by number from 0; else all")
    lora_rank_pattern: list[str] | None = option(None, "other ranks by name, such as c_attn=16", metavar="NAME=R")
    lora_alpha_pattern: list[str] | None = option(None, "other alphas by name", metavar="NAME=ALPHA")
    lora_bias: str = option("none", "biases to train besides", choices=("none", "all", "lora_only"))
    lora_modules_to_save: list[str] | None = option(None, "modules to train whole, such as lm_head")
    lora_rslora: bool = option(False, "scale by alpha / sqrt(r) instead")
    lora_dora: bool = option(False, "DoRA: train a magnitude for each output as well")
    lora_b_bias: bool = option(False, "a trained bias behind B (PEFT's lora_bias)")
    lora_init: str = option(
        "default",
        "how A and B begin: default (B zero), gaussian, random (neither is), orthogonal, pissa, pissa_niter_16, olora",
    )
    lora_plus_ratio: float = option(1.0, "LoRA+: B and vectors learn so many times as fast as A", at_least=1)
    added_tokens: list[str] | None = option(
        None, "new tokens, whose rows are trained; <USER> and <BOT> open a dialogue's turns, <END> ends them"
    )
    head_dropout: float = option(0.0, "dropout before the language model's head", at_least=0, below=1)
    label_smoothing: float = option(
        0.0, "share of each target that is spread over the vocabulary; in the training loss alone", at_least=0, below=1
    )
    epochs: float | None = option(
        None, "passes over the training data; a fraction is allowed", above=0, at_most=MOST_EPOCHS
    )
    max_steps: int | None = count(None, "updates, instead of epochs")
    batch_size: int = count(8, "examples in one forward pass, of all processes together")
    gradient_accumulation: int = count(1, "forward passes in one update")
    gradient_checkpointing: bool = option(
        False, "compute each block again in the backward pass, instead of keeping it: less memory, more time"
    )
    learning_rate: float | None = option(None, "peak; else 5e-4 for LoRA, 5e-5 for full tuning", above=0)
    schedule: str = option("linear", "of the learning rate after warm-up", choices=SCHEDULES)
    warmup_steps: int | None = count(None, "updates of warm-up; else 3 %% of the run", at_least=0)
    weight_decay: float = option(0.01, "AdamW's, on all but biases and norms", at_least=0)
    max_grad_norm: float = option(1.0, "gradients are clipped to this norm; 0: not at all", at_least=0)
    max_length: int | None = count(None, "longest example in tokens; else 512, or the model's positions", at_least=2)
    seed: int = option(0, "of data order, dropout and adapter", at_least=0)
    eval_every: int | None = count(
        None, "updates between validations; else one an epoch, 10 in a run at least, fewer where they would take long"
    )
    eval_limit: int | None = count(
        None,
        "examples of each validation, drawn with the seed; else all, as far as all validations take a tenth of the run",
    )
    save_every: int | None = count(None, "updates between checkpoints; else at each validation")
    skip_nonfinite: bool = option(False, "go on behind updates whose loss or gradients are not finite")
    patience: int | None = count(None, "stop after this many validations without a better loss")
    report_to: list[str] | None = option(
        None, "trackers that are told what metrics.jsonl says", choices=(*trackers.KINDS, trackers.NONE)
    )
    device: str = option("auto", "where to train", choices=("auto", "cpu", "cuda"))
    precision: str = option("fp32", "of matrix products; bf16 on CUDA and some CPUs, fp16 on CUDA", choices=PRECISIONS)
    base: str = option(
        "fp32",
        "what an adapter's base is kept in: int8 takes a quarter of float32's memory, bf16 and fp16 half",
        choices=BASES,
    )
    int8_threshold: float | None = option(
        None, "with int8, larger inputs are multiplied in float32; 0: none are; else 6 (LLM.int8())", at_least=0
    )

    def __post_init__(self):
        if found := [*problems(self), *_contradictions(self)]:
            raise joined(found)

    @property
    def run_dir(self) -> Path:
        """The run's folder."""
        name = f"{self.task}-{Path(self.model).name}-{self.tuning}"
        return Path(self.output_dir) if self.output_dir else Path("runs") / name

    def save(self, path: Path) -> None:
        """Writes every value as YAML: a recipe that repeats the run."""
        write_text(path, yaml.safe_dump(dataclasses.asdict(self), sort_keys=False, allow_unicode=True))


FIELDS = options_of(TrainingArguments)


def read_recipe(path: Path) -> dict[str, Any]:
    """A recipe's values, checked against the fields. Raises UserError that names the nearest right key."""
    values, errors = read_yaml(path), ErrorCollector()
    for key, value in values.items():
        with errors.collect():
            if key not in FIELDS:
                near = difflib.get_close_matches(str(key), FIELDS, n=1)
                hint = f"did you mean {near[0]}?" if near else "`train.py --help` names all"
                raise UserError(f"{path}: there is no setting {short(key)}; {hint}")
            try:
                values[key] = check_type(FIELDS[key], value)
            except UserError as error:
                raise UserError(f"{path}: {error}") from None
    errors.raise_all()
    return values


def over(recipe: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """A recipe's values with what was typed over them; one length of training, one place of data replaces the other."""
    for either in ({"epochs", "max_steps"}, {"data", "data_dir"}):
        if either & given.keys():
            recipe = recipe | dict.fromkeys(either)
    if given.get("base", "int8") != "int8":
        recipe = recipe | {"int8_threshold": None}
    return recipe | given


def resolve(given: dict[str, Any], recipe: dict[str, Any] | None = None, path: Path | None = None) -> TrainingArguments:
    """The arguments of a run from what was typed and, under it, a recipe, whose `path` an error of its own names."""
    recipe = recipe or {}
    if path is not None:
        try:
            TrainingArguments(**recipe)
        except UserError as error:
            raise ParameterError("{path}: {error}", path=path, error=error) from None
    return TrainingArguments(**over(recipe, given))


def resolve_resumed(given: dict[str, Any], run_dir: Path) -> tuple[TrainingArguments, TrainingArguments]:
    """The arguments of the run in `run_dir` with what is `given` now, and as they were.

    Raises UserError for what must not change.
    """
    recipe = run_dir / "arguments.yaml"
    if not recipe.is_file():
        raise ParameterError(
            "{run_dir} holds no run to resume ({recipe} is missing); start without {resume}",
            run_dir=run_dir,
            recipe=recipe.name,
        )
    before = read_recipe(recipe)
    changed = [
        ParameterError(f"{{{name}}} (was {{before}})", before=before.get(name))
        for name, value in given.items()
        if name not in RESUMABLE and value != before.get(name)
    ]
    if given.get("patience", math.inf) < (before.get("patience") or math.inf):
        now, was = given["patience"], before.get("patience")
        changed.append(ParameterError("{patience} {now} (was {was}; it may only grow)", now=now, was=was))
    if changed:
        left_out = joined(changed, ", ")
        raise ParameterError("{resume} goes on with the run as it was: leave out {these}", these=left_out)
    return resolve(given | {"output_dir": str(run_dir)}, before, recipe), TrainingArguments(**before)


def _contradictions(arguments: TrainingArguments) -> Iterator[UserError]:
    for name in FIELDS:
        value = getattr(arguments, name)
        if any(not _is_nameable(text) for text in (value if isinstance(value, list) else [value])):
            yield ParameterError(f"{{{name}}} holds NUL or half of a character, which no name can: give another")
    if arguments.epochs is not None and arguments.max_steps is not None:
        yield ParameterError("{epochs} and {max_steps} exclude each other: give one")
    if arguments.data is not None and arguments.data_dir is not None:
        yield ParameterError("{data} and {data_dir} exclude each other: give one")
    device = "cpu" if arguments.device == "cpu" else "auto"
    for check in (
        lambda: check_precision(arguments.precision, device),
        lambda: check_base(arguments.base, arguments.precision, device),
    ):
        try:
            check()
        except UserError as error:
            yield error
    if arguments.int8_threshold is not None and arguments.base != "int8":
        yield ParameterError("{int8_threshold} is of {base} int8: give that too, or leave it out")
    if arguments.base != "fp32" and arguments.tuning == "full":
        template = "{base} {value} is for a base that is not trained: leave it out, or give {tuning} lora"
        yield ParameterError(template, value=arguments.base)
    if arguments.base != "fp32" and changes_base(arguments.lora_init):
        template = "{lora_init} {start} changes the base, which {base} {value} keeps in fewer bits: leave one out"
        yield ParameterError(template, start=arguments.lora_init, value=arguments.base)


def _is_nameable(value: object) -> bool:
    """Whether the system can take a text as a name: any bytes but NUL can be one, UTF-8 or not."""
    try:
        return not isinstance(value, str) or b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        return False
