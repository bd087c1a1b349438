"""From arguments to what a run needs: data, tokenizer and configuration, checked before Jittor is imported."""

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path

from common.errors import ErrorCollector, ParameterError, UserError
from datasets import overview, tasks
from datasets.encode import report
from datasets.example import Dataset
from datasets.task import Task
from gpt2_jittor.checkpoint.config import GPT2Config
from gpt2_jittor.checkpoint.locate import is_local, locate
from gpt2_jittor.checkpoint.stored import SCORE, open_model
from gpt2_jittor.checkpoint.tokenizer import load_tokenizer
from lora.source import ModelSource, of_base
from training.adapter import DEFAULT_TARGETS, adapter_config, check_adapter
from training.arguments import TrainingArguments
from training.plan import RunPlan, check_scored, settle
from training.sample import SamplePrompt, sample_prompt

DEFAULT_LENGTH = 512


@dataclass(frozen=True)
class Inputs:
    """How a run goes, and of what the command knows besides: its task, its data as text, its base model's folder."""

    plan: RunPlan
    task: Task
    source: ModelSource  # the base, with the end token that the run teaches
    added: tuple[int, ...]  # the ids of the tokens that were added to its tokenizer
    sample: SamplePrompt | None  # of the validation examples
    reports: tuple[str, ...]  # what was said about the data
    sources: tuple[str, ...] = ()  # where each training item stands, where items are examples

    @property
    def arguments(self) -> TrainingArguments:
        """With every default settled."""
        return self.plan.arguments


def is_here(arguments: TrainingArguments) -> bool:
    """Whether reading the model and the data takes no download."""
    return (arguments.data_dir or arguments.data) is not None and is_local(arguments.model)


def read_inputs(arguments: TrainingArguments, say=print) -> Inputs:
    """Finds the model, reads and encodes the data, settles the defaults. Raises UserError for what is wrong."""
    if tasks.find(arguments.task).own:  # so that the run can be measured from any folder
        places = {name: getattr(arguments, name) for name in ("data", "data_dir")}
        absolute = {
            name: str(Path(place).absolute()) for name, place in places.items() if place and Path(place).exists()
        }
        arguments = dataclasses.replace(arguments, **absolute)
    run = dataclasses.asdict(arguments)
    task, errors = tasks.find(arguments.task, run), ErrorCollector()
    with errors.collect():
        settled = tasks.settled(task, run)
        if settled is not task:
            task, arguments = settled, dataclasses.replace(arguments, labels=list(settled.labels))
    with errors.collect():
        if not task.kind.generates and arguments.head_dropout:
            raise ParameterError(
                "{head_dropout} is for a language model's head, {0} has classes: leave it out", task.name
            )
    with errors.collect():
        source, added = read_base(arguments, task)
        if source.directory.resolve() == arguments.run_dir.resolve():
            raise ParameterError("{output_dir} {0} is the model's own folder: choose another", arguments.run_dir)
        arguments = dataclasses.replace(
            arguments,
            max_length=longest(arguments.max_length, source.config),
            lora_targets=arguments.lora_targets or DEFAULT_TARGETS,
        )
    encoded, sources, reports, splits = {}, (), [], {}
    for split in ("train", "validation"):
        with errors.collect():
            samples = read_split(task, split, tasks.data_path(task, arguments.data_dir, arguments.data))
            if errors.errors:  # there may be nothing to encode with, and it would be in vain
                continue
            encoded[split] = task.encode(samples.examples, source.tokenizer, arguments.max_length)
            check_scored(split, encoded[split])
            splits[split] = samples, encoded[split]
            if split == "train":
                sources = tuple(samples.examples[index].source for index in encoded[split].kept)
            reports.append(report(samples, encoded[split]))
            say(reports[-1])
    errors.raise_all()
    if task.own:
        say(overview.short(splits, source.tokenizer))  # not for the card: it quotes the data
    plan = settle(arguments, encoded["train"], encoded["validation"])
    plan.check_sizes(source.config)
    if len(plan.validation) < len(plan.whole_validation):
        reports.append(plan.describe_drawn())
        say(reports[-1])
    validation, encoded_validation = splits["validation"]
    example = validation.examples[next(iter(encoded_validation.kept), 0)]  # of packed texts none is an item's own
    sample = sample_prompt(task, example, source.tokenizer, source.config.n_positions, source.generation.end_ids)
    return Inputs(plan, task, source, added, sample, tuple(reports), sources)


def read_base(arguments: TrainingArguments, task: Task) -> tuple[ModelSource, tuple[int, ...]]:
    """The base model, with the end token that the run teaches, and the ids of the tokens that are added to it.

    Raises UserError for what is missing or damaged, the weights' files included, whose tensors are not read yet.
    """
    errors = ErrorCollector()
    with errors.collect():
        template = tasks.chat_template(task, arguments.chat_template)
    directory = locate(arguments.model)
    with errors.collect():
        base = open_model(directory)
        if arguments.tuning == "lora":
            check_adapter(arguments, not task.kind.generates, base.config)
    with errors.collect():
        tokenizer = load_tokenizer(directory)
    errors.raise_all()
    source = of_base(base, tokenizer)
    if task.kind.generates and SCORE in base.tensors:
        raise UserError(f"{directory} is a classifier: {task.name} needs a language model; give one")
    teach = task.teach and functools.partial(task.teach, template=template)
    return source.with_labels(task.labels).for_training(arguments.added_tokens or (), teach)


def read_split(task: Task, split: str, path: Path | None, limit: int | None = None) -> Dataset:
    """A split's examples, the first `limit` of them, of a file or folder, or of the hub's copy."""
    dataset = task.load(split, path)
    dataset.examples = dataset.examples[:limit]
    return dataset


def longest(max_length: int | None, config: GPT2Config) -> int:
    """The longest example in tokens: `max_length`, or DEFAULT_LENGTH as far as the model goes."""
    length = min(DEFAULT_LENGTH, config.n_positions) if max_length is None else max_length
    if not 2 <= length <= config.n_positions:
        raise ParameterError(
            "{max_length} must be between 2 and the model's {positions} positions, not {value}",
            positions=config.n_positions,
            value=length,
        )
    return length


def check_not_shorter(inputs: Inputs, before: TrainingArguments) -> None:
    """Raises UserError where a run that is taken up again would end earlier than it was to."""
    steps, planned = inputs.plan.total_steps, dataclasses.replace(inputs.plan, arguments=before).total_steps
    if steps < planned:
        raise ParameterError(
            "{resume} can make a run longer, not shorter: {steps} steps, {planned} were planned; "
            "raise {epochs} or {max_steps}, or leave them out",
            steps=steps,
            planned=planned,
        )


def base_name(model: str, directory: Path) -> str:
    """What PEFT finds the base model by: a name on the hub, or a folder."""
    return str(directory.resolve()) if model == "nano" or Path(model).is_dir() else model


def build_model(inputs: Inputs):
    """Reads the base model and makes it ready for training: with LoRA injected, or trainable as a whole.

    Classification gets a head for the task's labels, which is trained whole.
    """
    from lora import inject
    from lora.load import load_base

    given = inputs.arguments
    threshold = {} if given.int8_threshold is None else {"int8_threshold": given.int8_threshold}
    model = load_base(inputs.source, given.seed, base=given.base, **threshold)
    if given.tuning == "lora":
        base = base_name(given.model, inputs.source.directory)
        inject(model, adapter_config(given, not inputs.task.kind.generates, inputs.added, base), given.seed)
    return model.to_precision(given.precision).train()


def build_trainer(inputs: Inputs, resume: bool = False):
    """The `Trainer` of a run from the command line; with `resume` it goes on from the newest checkpoint."""
    from training import Trainer

    plan = inputs.plan
    return Trainer(
        build_model(inputs),
        plan.train,
        plan.whole_validation,
        plan.arguments,
        inputs.source.tokenizer,
        resume=resume,
        sources=inputs.sources,
        sample=inputs.sample,
        own_tokenizer=inputs.task.teach is not None,
    )
