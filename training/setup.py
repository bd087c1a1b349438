"""From arguments to what a run needs. Everything that can be wrong is checked here, before Jittor is imported."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from datasets import registry
from datasets.encode import EncodedSet, report
from datasets.example import Dataset, Task
from gpt2_jittor.config import GPT2Config
from gpt2_jittor.hub import locate
from gpt2_jittor.tokenizer import check_sizes, load_tokenizer
from training.arguments import TrainingArguments

DEFAULT_EPOCHS = 3
DEFAULT_LENGTH = 512
DEFAULT_RATES = {"lora": 1e-3, "full": 1e-4}
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
    train: EncodedSet
    validation: EncodedSet
    samples: Dataset  # validation examples as text, for the sample reply

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


def read_inputs(arguments: TrainingArguments, say=print) -> Inputs:
    """Finds the model, reads and encodes the data, settles the defaults. Raises UserError for what is wrong."""
    task = registry.task(arguments.task)
    directory = locate(arguments.model)
    config = GPT2Config.from_pretrained(directory)
    tokenizer = load_tokenizer(directory)
    check_sizes(tokenizer, config)
    length = arguments.max_length or min(DEFAULT_LENGTH, config.n_positions)
    if length > config.n_positions:
        raise UserError(f"--max-length {length} is beyond the model's {config.n_positions} positions")
    where = registry.data_dir(task, arguments.data_dir)
    encoded, samples = {}, None
    for split in ("train", "validation"):
        samples = task.load(split, where)
        if split == "validation" and arguments.eval_limit:
            samples.examples = samples.examples[: arguments.eval_limit]
        encoded[split] = task.encode(samples.examples, tokenizer, length)
        say(report(samples, encoded[split]))
    arguments = dataclasses.replace(arguments, max_length=length)
    inputs = Inputs(arguments, task, directory, config, tokenizer, encoded["train"], encoded["validation"], samples)
    return settle(inputs)


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


def build_model(inputs: Inputs):
    """Reads the base model and makes it ready for training: with LoRA injected, or trainable as a whole."""
    from gpt2_jittor.model import GPT2LMHeadModel
    from lora import LoraConfig, inject

    given = inputs.arguments
    model = GPT2LMHeadModel.from_pretrained(inputs.directory)
    if given.tuning == "lora":
        targets = given.lora_targets
        config = LoraConfig(
            r=given.lora_r,
            lora_alpha=given.lora_alpha,
            lora_dropout=given.lora_dropout,
            # a single name of characters that no module has is a regular expression
            target_modules=targets[0]
            if len(targets) == 1 and not targets[0].replace(".", "_").isidentifier()
            else targets,
            bias=given.lora_bias,
            modules_to_save=given.lora_modules_to_save,
            use_rslora=given.lora_rslora,
            base_model_name_or_path=given.model if not Path(given.model).is_dir() else str(Path(given.model).resolve()),
        )
        inject(model, config, given.seed)
    return model.train()
