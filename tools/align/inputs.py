"""What is aligned: a run of `train.py`'s, settled and checked as it is there, and written for both sides. No Jittor."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import ParameterError, UserError
from datasets.batches import Batch, collate, plan_batches
from gpt2_jittor.runtime import runtime
from gpt2_jittor.runtime.precision import check_precision
from tools.align.turns import IGNORED, Prompt, Rows, write_data
from training.arguments import TrainingArguments
from training.batches import UpdateBatches
from training.sample import MOST_TOKENS
from training.setup import Inputs, read_inputs

PROMPTS = 4  # that both sides answer at the end
OPENING = 32  # tokens of a text that are continued, where nothing is asked in it
PRECISIONS = ("fp32", "bf16")  # fp16 has a loss scale, which makes two runs skip other updates


def check(arguments: TrainingArguments) -> str:
    """Settles the device, "cpu" or "cuda". Raises UserError for what PyTorch's side has no equal of."""
    if arguments.tuning != "lora":
        raise ParameterError("{tuning} {0}: LoRA is what is aligned; leave it out", arguments.tuning)
    for name in ("added_tokens", "head_dropout"):
        if getattr(arguments, name):
            raise ParameterError(f"{{{name}}}: PEFT has no equal of it that would be the same; leave it out")
    if arguments.lora_init == "olora":
        raise ParameterError("{lora_init} olora: PEFT begins with another part of GPT-2's weights; leave it out")
    if arguments.base != "fp32":
        raise ParameterError("{base} {0}: PyTorch's side has a float32 base; leave it out", arguments.base)
    if arguments.precision not in PRECISIONS:
        raise ParameterError("{precision} is one of {0} here, not {1}", ", ".join(PRECISIONS), arguments.precision)
    device = runtime.prepare(arguments.device)
    check_precision(arguments.precision, device)
    return device


def read(arguments: TrainingArguments) -> Inputs:
    """The run: its model, its data, its defaults settled. Raises UserError for what is wrong with any of them."""
    inputs = read_inputs(arguments)
    if len(inputs.source.tokenizer) > inputs.source.base.config.vocab_size:
        raise UserError(f"{inputs.source.directory} has fewer embeddings than its tokenizer has tokens: give another")
    return inputs


def write(inputs: Inputs, path: Path) -> list[Prompt]:
    """Writes every batch of the run, and the prompts, which are returned."""
    plan, pad_id = inputs.plan, inputs.source.tokenizer.pad_token_id
    batches, size = UpdateBatches(plan, pad_id), inputs.arguments.batch_size
    updates = ([_rows(batch) for batch in batches.of(step)] for step in range(plan.total_steps))
    planned = plan_batches(plan.validation.lengths, size, seed=0, epoch=0, shuffle=False)
    validation = [_rows(collate([plan.validation[index] for index in indexes], pad_id)) for indexes in planned]
    asked = prompts(inputs)
    write_data(path, updates, validation, asked)
    return asked


def prompts(inputs: Inputs) -> list[Prompt]:
    """What stands before the answer in validation examples, the first that differ in it; openings, of texts without."""
    positions, found = inputs.source.config.n_positions, {}
    for item in inputs.plan.whole_validation.items if inputs.task.kind.generates else ():
        first = int(np.flatnonzero(item.labels != IGNORED)[0])
        input_ids = item.input_ids[: first if first > 1 else OPENING]
        if (most := min(MOST_TOKENS, positions - len(input_ids))) > 0:
            found[input_ids.tobytes()] = Prompt(input_ids, most)
        if len(found) == PROMPTS:
            break
    return list(found.values())


def settings(inputs: Inputs, folder: Path, data: Path, device: str) -> dict[str, Any]:
    """What both sides are told, but for whether there is dropout."""
    source = inputs.source
    return {
        "arguments": dataclasses.asdict(inputs.arguments),
        "base": str(source.directory.resolve()),
        "start": str((folder / "start").resolve()),
        "data": str(data),
        "device": device,
        "steps": inputs.plan.total_steps,
        "eval_every": inputs.arguments.eval_every,
        "labels": list(inputs.task.labels),
        "pad_id": source.tokenizer.pad_token_id,
        "end_ids": sorted(source.ends()),
        "repeat": 1,  # a turn at a time
    }


def _rows(batch: Batch) -> Rows:
    return Rows(batch.input_ids, batch.labels, batch.attention_mask)
