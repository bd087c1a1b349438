"""From arguments to what a run needs: data, tokenizer and configuration, checked before Jittor is imported."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

from common import processes
from common.errors import ErrorCollector, ParameterError, UserError
from datasets import registry
from datasets.encode import EncodedSet, report
from datasets.example import Dataset, Task
from gpt2_jittor.config import GPT2Config
from gpt2_jittor.demand import check_training
from gpt2_jittor.generation_config import GenerationConfig, with_end
from gpt2_jittor.hub import is_local, locate
from gpt2_jittor.outline import open_model
from gpt2_jittor.tokenizer import add_tokens, check_sizes, load_tokenizer
from lora.config import LoraConfig, projections_of
from training.arguments import TrainingArguments
from training.budget import Budget, count_validations, draw

DEFAULT_EPOCHS = 3
DEFAULT_LENGTH = 512
DEFAULT_RATES = {"lora": 5e-4, "full": 5e-5}  # usual for GPT-2 small; small models bear more
DEFAULT_TARGETS = ["c_attn", "c_proj", "c_fc"]
WARMUP = 0.03  # of a run's updates
LEAST_VALIDATIONS = 10
MOST_ACCUMULATION = 1024  # batches in an update, or those of an epoch where they are more


@dataclass(frozen=True)
class Inputs:
    """A run's arguments with every default settled, its data, tokenizer and base model's folder."""

    arguments: TrainingArguments
    task: Task
    directory: Path
    config: GPT2Config
    generation: GenerationConfig  # the base's, with the end token that the run teaches
    tokenizer: object
    added: tuple[int, ...]  # the ids of the tokens that were added to it
    train: EncodedSet
    validation: EncodedSet  # of every validation: all there is, or what is drawn of it (`training/budget.py`)
    whole_validation: EncodedSet
    samples: Dataset  # validation examples as text, for the sample reply
    reports: tuple[str, ...]  # what was said about the data
    sources: tuple[str, ...] = ()  # where each training item stands, where items are examples

    @property
    def batches_per_epoch(self) -> int:
        """How many batches all the training data make; the last one may be smaller."""
        return math.ceil(len(self.train) / self.arguments.batch_size)

    @property
    def total_batches(self) -> int:
        """Forward passes of the whole run; the last update may accumulate fewer than the others."""
        if self.arguments.epochs is None:
            return self.arguments.max_steps * self.arguments.gradient_accumulation
        return max(1, math.ceil(self.arguments.epochs * self.batches_per_epoch))

    @property
    def budget(self) -> Budget:
        """How much validation the run bears."""
        epochs, whole = self.total_batches / self.batches_per_epoch, self.whole_validation
        return Budget(len(whole), whole.tokens, self.train.tokens * epochs)

    @property
    def measures_whole(self) -> bool:
        """Whether the best weights are measured on the whole validation set at the end, which nothing was before."""
        return len(self.validation) < len(self.whole_validation) and self.budget.bears_whole

    @property
    def total_steps(self) -> int:
        """Updates of the whole run, `gradient_accumulation` batches each; the last one may have fewer."""
        return -(-self.total_batches // self.arguments.gradient_accumulation)  # rounded up, exactly


def is_here(arguments: TrainingArguments) -> bool:
    """Whether reading the model and the data takes no download."""
    return arguments.data_dir is not None and is_local(arguments.model)


def read_inputs(arguments: TrainingArguments, say=print) -> Inputs:
    """Finds the model, reads and encodes the data, settles the defaults. Raises UserError for what is wrong."""
    task = registry.task(arguments.task)
    errors = ErrorCollector()
    with errors.collect():
        if task.kind == "classify" and arguments.head_dropout:
            raise ParameterError(
                "{head_dropout} is for a language model's head, {task} has classes: leave it out", task=task.name
            )
    with errors.collect():
        base = read_base(arguments)
        directory, config, _, tokenizer, _ = base
        if directory.resolve() == arguments.run_dir.resolve():
            folder = arguments.run_dir
            raise ParameterError("{output_dir} {folder} is the model's own folder: choose another", folder=folder)
        arguments = dataclasses.replace(arguments, max_length=longest(arguments.max_length, config))
    encoded, sources, reports = {}, (), []
    for split in ("train", "validation"):
        with errors.collect():
            samples = read_split(task, split, arguments.data_dir)
            if errors.errors:  # there may be nothing to encode with, and it would be in vain
                continue
            encoded[split] = task.encode(samples.examples, tokenizer, arguments.max_length)
            if not encoded[split].scored:
                raise UserError(f"nothing in the {split} data is scored, so nothing can be learnt: give other data")
            sources = sources or tuple(samples.examples[index].source for index in encoded[split].kept)
            reports.append(report(samples, encoded[split]))
            say(reports[-1])
    errors.raise_all()
    splits = encoded["train"], encoded["validation"], encoded["validation"]
    inputs = settle(Inputs(arguments, task, *base, *splits, samples, tuple(reports), sources))
    check_sizes_of(inputs)
    if len(inputs.validation) == len(inputs.whole_validation):
        return inputs
    say(note := say_drawn(inputs))
    return dataclasses.replace(inputs, reports=(*reports, note))


def check_sizes_of(inputs: Inputs) -> None:
    """Raises UserError where an update would take more batches than the data have, or a batch more memory than there
    is. An update's batches are made together.
    """
    given, each = inputs.arguments, inputs.batches_per_epoch
    most = max(each, MOST_ACCUMULATION)
    if given.gradient_accumulation > most:
        raise ParameterError(
            "{gradient_accumulation} {value:,} is more than {most:,} batches in one update, "
            "where all the data are {each:,}: lower it",
            value=given.gradient_accumulation,
            most=most,
            each=each,
        )
    rows = min(given.batch_size, len(inputs.train)) * processes.here() // processes.count()
    check_training(inputs.config, rows, max(inputs.train.lengths), "{batch_size} or {max_length}")


def read_base(
    arguments: TrainingArguments,
) -> tuple[Path, GPT2Config, GenerationConfig, object, tuple[int, ...]]:
    """The base model's folder, its configurations and tokenizer, and the ids of the tokens that were added to that.

    Both configurations have the tokenizer's end token among theirs; the first has its padding token, too.

    Raises UserError for what is missing or damaged, the weights' files included, whose tensors are not read yet.
    """
    errors = ErrorCollector()
    directory = locate(arguments.model)
    with errors.collect():
        config = open_model(directory).config
        if arguments.tuning == "lora" and arguments.lora_r > config.n_embd:
            raise ParameterError(
                "{lora_r} {value} is larger than the model's width, {width}: lower it",
                value=arguments.lora_r,
                width=config.n_embd,
            )
        if arguments.tuning == "lora" and arguments.lora_targets:
            targets = LoraConfig(target_modules=names_or_expression(arguments.lora_targets))
            targets.check_targets(projections_of(config.n_layer))
    with errors.collect():
        tokenizer = load_tokenizer(directory)
    errors.raise_all()
    check_sizes(tokenizer, config)
    before = tokenizer.eos_token_id
    added = tuple(add_tokens(tokenizer, arguments.added_tokens or ()))
    end = with_end(config.eos_token_id, tokenizer.eos_token_id, before)
    config = dataclasses.replace(config, eos_token_id=end, pad_token_id=tokenizer.pad_token_id)
    generation = GenerationConfig.from_pretrained(directory).ending_with(tokenizer, before)
    generation.ends(tokenizer, max(config.vocab_size, len(tokenizer)))  # what is wrong with them is told now
    return directory, config, generation, tokenizer, added


def read_split(task: Task, split: str, data_dir: str | None, limit: int | None = None) -> Dataset:
    """A split's examples, the first `limit` of them. `data_dir` is what the parameter of that name says."""
    dataset = task.load(split, registry.data_dir(task, data_dir))
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


def settle(inputs: Inputs) -> Inputs:
    """Fills in the defaults that depend on the data and on each other."""

    def with_values(inputs: Inputs, **values) -> Inputs:
        """`inputs` with these arguments where they are still None; one that was given stays."""
        missing = {name: value for name, value in values.items() if getattr(inputs.arguments, name) is None}
        return dataclasses.replace(inputs, arguments=dataclasses.replace(inputs.arguments, **missing))

    given = inputs.arguments
    if given.max_steps is None:
        inputs = with_values(inputs, epochs=DEFAULT_EPOCHS)
    steps = inputs.total_steps
    steps_per_epoch = math.ceil(inputs.batches_per_epoch / given.gradient_accumulation)
    often = max(1, min(steps_per_epoch, steps // LEAST_VALIDATIONS))
    inputs = with_values(
        inputs,
        output_dir=str(given.run_dir),
        learning_rate=DEFAULT_RATES[given.tuning],
        lora_targets=DEFAULT_TARGETS,
        warmup_steps=round(WARMUP * steps),
        eval_every=often if given.eval_limit else inputs.budget.every(steps, often),
    )
    every = inputs.arguments.eval_every
    inputs = with_values(inputs, save_every=every, eval_limit=inputs.budget.limit(count_validations(steps, every)))
    drawn = draw(inputs.whole_validation, inputs.arguments.eval_limit, given.seed)
    return dataclasses.replace(inputs, validation=drawn)


def say_drawn(inputs: Inputs) -> str:
    """What is said of a run whose validations are not of the whole set."""
    kind = "examples" if inputs.whole_validation.kept else "windows"
    chosen = f"{len(inputs.validation):,} of {len(inputs.whole_validation):,} {kind}, the same each time"
    last = (
        "at the end the best weights are measured on all of them"
        if inputs.measures_whole
        else "all of them would take too long in so short a run: `evaluate.py --split validation` measures them"
    )
    return f"each validation: {chosen}, drawn with the seed (--eval-limit); {last}"


def check_not_shorter(inputs: Inputs, before: TrainingArguments) -> None:
    """Raises UserError where a run that is taken up again would end earlier than it was to."""
    steps, planned = inputs.total_steps, dataclasses.replace(inputs, arguments=before).total_steps
    if steps < planned:
        raise ParameterError(
            "{resume} can make a run longer, not shorter: {steps} steps, {planned} were planned; "
            "raise {epochs} or {max_steps}, or leave them out",
            steps=steps,
            planned=planned,
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
    ids = {name: getattr(inputs.config, name) for name in ("eos_token_id", "pad_token_id")}
    model.config = dataclasses.replace(model.config, **ids)  # transformers generates and pools by them
    model.generation = inputs.generation.values
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
