"""How a run goes: every default settled by the data, how many updates it makes, when and on what it validates.

The same for `train.py` and for whoever gives encoded sets of their own to a `Trainer`.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from common import processes
from common.errors import ParameterError, UserError
from datasets.encode import EncodedSet
from gpt2_jittor.checkpoint.config import GPT2Config
from gpt2_jittor.runtime.demand import check_training
from gpt2_jittor.runtime.precision import DEFAULT_THRESHOLD
from training.arguments import TrainingArguments
from training.budget import FORWARD, Budget, count_validations, draw
from training.forecast import Forecast

DEFAULT_EPOCHS = 3
DEFAULT_RATES = {"lora": 5e-4, "full": 5e-5}  # usual for GPT-2 small; small models bear more
WARMUP = 0.03  # of a run's updates
LEAST_VALIDATIONS = 10
MOST_ACCUMULATION = 1024  # batches in an update, or those of an epoch where they are more


@dataclass(frozen=True)
class RunPlan:
    """A run's arguments and its encoded sets, and what follows from them. `settle` makes one."""

    arguments: TrainingArguments
    train: EncodedSet
    validation: EncodedSet  # of every validation: all there is, or what is drawn of it (`training/budget.py`)
    whole_validation: EncodedSet

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
    def total_steps(self) -> int:
        """Updates of the whole run, `gradient_accumulation` batches each; the last one may have fewer."""
        return -(-self.total_batches // self.arguments.gradient_accumulation)  # rounded up, exactly

    @property
    def budget(self) -> Budget:
        """How much validation the run bears."""
        epochs, whole = self.total_batches / self.batches_per_epoch, self.whole_validation
        return Budget(len(whole), whole.tokens, self.train.tokens * epochs)

    @property
    def measures_whole(self) -> bool:
        """Whether the best weights are measured on the whole validation set at the end, which nothing was before."""
        return len(self.validation) < len(self.whole_validation) and self.budget.bears_whole

    def forecast(self, step: int) -> Forecast:
        """For a run that goes on from `step`; 0 is its beginning, whose first validation is not awaited."""
        every, whole = self.arguments.eval_every, self.measures_whole
        validations = count_validations(self.total_steps, every) - 1 - step // every
        tokens = validations * self.validation.tokens + whole * self.whole_validation.tokens
        return Forecast(self.budget.trained / self.total_steps, FORWARD * tokens, validations + whole)

    def describe_drawn(self) -> str:
        """What is said of a run whose validations are not of the whole set."""
        kind = "examples" if self.whole_validation.kept else "windows"
        chosen = f"{len(self.validation):,} of {len(self.whole_validation):,} {kind}, the same each time"
        last = (
            "at the end the best weights are measured on all of them"
            if self.measures_whole
            else "all of them would take too long in so short a run: `evaluate.py --split validation` measures them"
        )
        return f"each validation: {chosen}, drawn with the seed (--eval-limit); {last}"

    def check_sizes(self, config: GPT2Config) -> None:
        """Raises UserError where an update would take more batches than the data have, or a batch more memory than
        there is. An update's batches are made together.
        """
        given, each = self.arguments, self.batches_per_epoch
        most = max(each, MOST_ACCUMULATION)
        if given.gradient_accumulation > most:
            raise ParameterError(
                "{gradient_accumulation} {value:,} is more than {most:,} batches in one update, "
                "where all the data are {each:,}: lower it",
                value=given.gradient_accumulation,
                most=most,
                each=each,
            )
        rows = min(given.batch_size, len(self.train)) * processes.here() // processes.count()
        check_training(config, rows, max(self.train.lengths), "{batch_size} or {max_length}")


def settle(arguments: TrainingArguments, train: EncodedSet, validation: EncodedSet) -> RunPlan:
    """Fills in the arguments that are None and depend on the data and on each other; what was given stays.

    Of arguments that are settled already it makes the same plan again.
    """

    def filled(plan: RunPlan, **values) -> RunPlan:
        """`plan` with these arguments where they are still None."""
        return dataclasses.replace(plan, arguments=fill(plan.arguments, values))

    if arguments.base == "int8":
        arguments = fill(arguments, {"int8_threshold": DEFAULT_THRESHOLD})
    plan = RunPlan(arguments, train, validation, validation)
    if arguments.max_steps is None:
        plan = filled(plan, epochs=DEFAULT_EPOCHS)
    steps = plan.total_steps
    steps_per_epoch = math.ceil(plan.batches_per_epoch / arguments.gradient_accumulation)
    often = max(1, min(steps_per_epoch, steps // LEAST_VALIDATIONS))
    plan = filled(
        plan,
        output_dir=str(arguments.run_dir),
        learning_rate=DEFAULT_RATES[arguments.tuning],
        warmup_steps=round(WARMUP * steps),
        eval_every=often if arguments.eval_limit else plan.budget.every(steps, often),
    )
    every = plan.arguments.eval_every
    plan = filled(plan, save_every=every, eval_limit=plan.budget.limit(count_validations(steps, every)))
    drawn = draw(validation, plan.arguments.eval_limit, arguments.seed)
    return dataclasses.replace(plan, validation=drawn)


def fill(arguments: TrainingArguments, values: dict[str, Any]) -> TrainingArguments:
    """The arguments with these values where they are None."""
    missing = {name: value for name, value in values.items() if getattr(arguments, name) is None}
    return dataclasses.replace(arguments, **missing)


def check_scored(split: str, data: EncodedSet) -> None:
    """Raises UserError where nothing of a split enters the loss."""
    if not data.scored:
        raise UserError(f"nothing in the {split} data is scored, so nothing can be learnt: give other data")


def set_losses(model: Any, given: TrainingArguments) -> None:
    """How the model makes its training loss, as far as the arguments say it: smoothed, dropped, computed twice."""
    if given.gradient_checkpointing:
        model.transformer.gradient_checkpointing = True
    if given.head_dropout:
        model.head_dropout = given.head_dropout
    if given.label_smoothing:
        model.label_smoothing = given.label_smoothing


def agreed(arguments: TrainingArguments, model: Any) -> TrainingArguments:
    """Makes the model's losses as the arguments say; the arguments, with all else that they say of it as it is."""
    set_losses(model, arguments)
    config = model.adapter_config
    values = {"precision": model.precision, "head_dropout": getattr(model, "head_dropout", 0.0), "tuning": "full"}
    values |= {"label_smoothing": model.label_smoothing, "base": model.base_precision}
    values["gradient_checkpointing"] = model.transformer.gradient_checkpointing
    values["int8_threshold"] = model.int8_threshold
    if config is not None:
        values |= {"tuning": "lora", "lora_r": config.r, "lora_alpha": config.lora_alpha, "lora_bias": config.bias}
        values |= {"lora_dropout": config.lora_dropout, "lora_rslora": config.use_rslora}
        values |= {"lora_dora": config.use_dora, "lora_b_bias": config.lora_bias}
    return dataclasses.replace(arguments, **values)
