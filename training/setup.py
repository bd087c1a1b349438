"""From arguments to what a run needs: data, tokenizer and configuration, checked before Jittor is imported."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

from common.errors import Faults, UserError
from datasets import registry
from datasets.encode import EncodedSet, report
from datasets.example import Dataset, Task
from gpt2_jittor.config import GPT2Config
from gpt2_jittor.hub import is_local, locate
from gpt2_jittor.outline import open_model
from gpt2_jittor.tokenizer import add_tokens, check_sizes, load_tokenizer
from lora.config import LoraConfig, projections_of
from training.arguments import TrainingArguments

DEFAULT_EPOCHS = 3
DEFAULT_LENGTH = 512
DEFAULT_RATES = {"lora": 5e-4, "full": 5e-5}  # usual for GPT-2 small; small models bear more
DEFAULT_TARGETS = ["c_attn", "c_proj", "c_fc"]
WARMUP = 0.03  # of a run's updates
LEAST_VALIDATIONS = 10


@dataclass(frozen=True)
class Inputs:
    """A run's arguments with every default settled, its data, tokenizer and base model's folder."""

    arguments: TrainingArguments
    task: Task
    directory: Path
    config: GPT2Config
    tokenizer: object
    added: tuple[int, ...]  # the ids of the tokens that were added to it
    train: EncodedSet
    validation: EncodedSet
    samples: Dataset  # validation examples as text, for the sample reply
    reports: tuple[str, ...]  # what was said about the data
    sources: tuple[str, ...] = ()  # where each training item stands, where items are examples

    @property
    def batches_per_epoch(self) -> int:
        return math.ceil(len(self.train) / self.arguments.batch_size)

    @property
    def total_batches(self) -> int:
        """Forward passes of the whole run; the last update may accumulate fewer than the others."""
        if self.arguments.epochs is None:
            return self.arguments.max_steps * self.arguments.gradient_accumulation
        return max(1, math.ceil(self.arguments.epochs * self.batches_per_epoch))

    @property
    def total_steps(self) -> int:
        return math.ceil(self.total_batches / self.arguments.gradient_accumulation)


def is_here(arguments: TrainingArguments) -> bool:
    """Whether reading the model and the data takes no download."""
    return arguments.data_dir is not None and is_local(arguments.model)


def read_inputs(arguments: TrainingArguments, say=print) -> Inputs:
    """Finds the model, reads and encodes the data, settles the defaults. Raises UserError for what is wrong."""
    task = registry.task(arguments.task)
    faults = Faults()
    with faults.gathered():
        if task.kind == "classify" and arguments.head_dropout:
            raise UserError(f"--head-dropout is for a language model's head, {task.name} has classes: leave it out")
    with faults.gathered():
        directory, config, tokenizer, added = read_base(arguments)
        if directory.resolve() == arguments.run_dir.resolve():
            raise UserError(f"--output-dir {arguments.run_dir} is the model's own folder: choose another")
        arguments = dataclasses.replace(arguments, max_length=longest(arguments.max_length, config))
    encoded, sources, reports = {}, (), []
    for split, limit in (("train", None), ("validation", arguments.eval_limit)):
        with faults.gathered():
            samples = read_split(task, split, arguments.data_dir, limit)
            if faults.messages:  # there may be nothing to encode with, and it would be in vain
                continue
            encoded[split] = task.encode(samples.examples, tokenizer, arguments.max_length)
            if not encoded[split].scored:
                raise UserError(f"nothing in the {split} data is scored, so nothing can be learnt: give other data")
            sources = sources or tuple(samples.examples[index].source for index in encoded[split].kept)
            reports.append(report(samples, encoded[split]))
            say(reports[-1])
    faults.tell()
    splits = encoded["train"], encoded["validation"]
    return settle(
        Inputs(arguments, task, directory, config, tokenizer, added, *splits, samples, tuple(reports), sources)
    )


def read_base(arguments: TrainingArguments) -> tuple[Path, GPT2Config, object, tuple[int, ...]]:
    """The base model's folder, configuration and tokenizer, with the ids of the tokens that were added to it.

    Raises UserError for what is missing or damaged, the weights' files included, whose tensors are not read yet.
    """
    faults = Faults()
    directory = locate(arguments.model)
    with faults.gathered():
        config = open_model(directory).config
        if arguments.tuning == "lora" and arguments.lora_r > config.n_embd:
            raise UserError(f"--lora-r {arguments.lora_r} is larger than the model's width, {config.n_embd}: lower it")
        if arguments.tuning == "lora" and arguments.lora_targets:
            targets = LoraConfig(target_modules=names_or_expression(arguments.lora_targets))
            targets.check_targets(projections_of(config.n_layer))
    with faults.gathered():
        tokenizer = load_tokenizer(directory)
    faults.tell()
    check_sizes(tokenizer, config)
    return directory, config, tokenizer, tuple(add_tokens(tokenizer, arguments.added_tokens or ()))


def read_split(task: Task, split: str, data_dir: str | None, limit: int | None = None) -> Dataset:
    """A split's examples, the first `limit` of them. `data_dir` is what `--data-dir` says."""
    dataset = task.load(split, registry.data_dir(task, data_dir))
    dataset.examples = dataset.examples[:limit]
    return dataset


def longest(max_length: int | None, config: GPT2Config) -> int:
    """The longest example in tokens: what `--max-length` says, or DEFAULT_LENGTH as far as the model goes."""
    length = min(DEFAULT_LENGTH, config.n_positions) if max_length is None else max_length
    if not 2 <= length <= config.n_positions:
        raise UserError(f"--max-length must be between 2 and the model's {config.n_positions} positions, not {length}")
    return length


def settle(inputs: Inputs) -> Inputs:
    """Fills in the defaults that depend on the data and on each other."""

    def with_values(inputs: Inputs, **values) -> Inputs:
        missing = {name: value for name, value in values.items() if getattr(inputs.arguments, name) is None}
        return dataclasses.replace(inputs, arguments=dataclasses.replace(inputs.arguments, **missing))

    given = inputs.arguments
    if given.max_steps is None:
        inputs = with_values(inputs, epochs=DEFAULT_EPOCHS)
    steps = inputs.total_steps
    steps_per_epoch = math.ceil(inputs.batches_per_epoch / given.gradient_accumulation)
    inputs = with_values(
        inputs,
        output_dir=str(given.run_dir),
        learning_rate=DEFAULT_RATES[given.tuning],
        lora_targets=DEFAULT_TARGETS,
        warmup_steps=round(WARMUP * steps),
        eval_every=max(1, min(steps_per_epoch, steps // LEAST_VALIDATIONS)),
    )
    return with_values(inputs, save_every=inputs.arguments.eval_every)


def check_not_shorter(inputs: Inputs, before: TrainingArguments) -> None:
    """Raises UserError where a run that is taken up again would end earlier than it was to."""
    steps, planned = inputs.total_steps, dataclasses.replace(inputs, arguments=before).total_steps
    if steps < planned:
        raise UserError(
            f"--resume can make a run longer, not shorter: {steps} steps, {planned} were planned; "
            "raise --epochs or --max-steps, or leave them out"
        )


def names_or_expression(targets: list[str]) -> list[str] | str:
    """A single target with characters that no module's name has is a regular expression."""
    is_name = targets[0].replace(".", "_").isidentifier()
    return targets if len(targets) > 1 or is_name else targets[0]


def base_name(model: str, directory: Path) -> str:
    """What PEFT finds the base model by: a name on the hub, or a folder."""
    return str(directory.resolve()) if model == "nano" or Path(model).is_dir() else model


def build_model(inputs: Inputs):
    """Reads the base model and makes it ready for training: with LoRA injected, or trainable as a whole.

    Classification gets a head for the task's labels, which is trained whole.
    """
    from lora import inject

    given = inputs.arguments
    model = read_model(inputs.task, inputs.directory, len(inputs.tokenizer), given.seed)
    model.config = with_ends_of(inputs.tokenizer, model.config)
    if given.head_dropout:
        model.head_dropout = given.head_dropout
    if given.tuning == "lora":
        classify = inputs.task.kind == "classify"
        config = LoraConfig(
            r=given.lora_r,
            lora_alpha=given.lora_alpha,
            lora_dropout=given.lora_dropout,
            target_modules=names_or_expression(given.lora_targets),
            bias=given.lora_bias,
            modules_to_save=["score", *(given.lora_modules_to_save or ())] if classify else given.lora_modules_to_save,
            use_rslora=given.lora_rslora,
            trainable_token_indices=list(inputs.added) or None,
            base_model_name_or_path=base_name(given.model, inputs.directory),
            task_type="SEQ_CLS" if classify else "CAUSAL_LM",
        )
        inject(model, config, given.seed)
    return model.to_precision(given.precision).train()


def read_model(task: Task, directory: Path, tokens: int, seed: int = 0):
    """The base model of a task, with embeddings for `tokens` tokens at least."""
    from gpt2_jittor import GPT2ForSequenceClassification, GPT2LMHeadModel

    if task.kind == "classify":
        model = GPT2ForSequenceClassification.from_pretrained(directory, task.labels, seed)
    else:
        model = GPT2LMHeadModel.from_pretrained(directory)
    if tokens > model.config.vocab_size:
        model.resize_token_embeddings(tokens)
    return model


def with_ends_of(tokenizer, config: GPT2Config) -> GPT2Config:
    """The configuration with the tokenizer's end and padding tokens: transformers generates and pools by them."""
    return dataclasses.replace(config, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
