"""This project's side: the trainer's own update, validation and replies. It writes the start that both sides read."""

import dataclasses
import importlib.metadata
from pathlib import Path

from benchmarks.worker import serve
from datasets.batches import Batch
from datasets.encode import Encoded, EncodedSet
from gpt2_jittor.checkpoint.stored import open_model
from gpt2_jittor.runtime import runtime
from tools.align.turns import Prompt, Rows, Turns
from training.arguments import TrainingArguments
from training.schedule import learning_rate


class OurSide:
    """A model with its adapter, and AdamW, as `training/setup.py` and `training/trainer.py` make them."""

    def __init__(self, settings: dict):
        from lora import trainable
        from training.optimizer import AdamW

        self.given, self.steps = TrainingArguments(**settings["arguments"]), settings["steps"]
        self.pad_id, self.end_ids = settings["pad_id"], settings["end_ids"]
        self.model = _adapted(settings, self.given)
        self.optimizer = AdamW(
            trainable(self.model), self.given.weight_decay, lora_plus_ratio=self.given.lora_plus_ratio
        )

    def update(self, step: int, batches: list[Rows]) -> tuple[float, float, float]:
        """As `turns.Side` says."""
        from gpt2_jittor.runtime.backend import jt
        from training.step import update

        given, made = self.given, step - 1
        rate = learning_rate(given.schedule, given.learning_rate, made, given.warmup_steps, self.steps)
        several = [Batch(*rows, rows.tokens, rows.scored) for rows in batches]
        result = update(self.model, self.optimizer, several, rate, given.max_grad_norm, (given.seed, made))
        jt.sync_all(True)
        return result.loss, result.grad_norm, rate

    def validate(self, batches: list[Rows]) -> float:
        """As `turns.Side` says."""
        from generation.scoring import evaluate

        items = EncodedSet([item for rows in batches for item in _items(rows)])
        return evaluate(self.model, items, self.given.batch_size, self.pad_id).loss

    def reply(self, prompt: Prompt) -> list[int]:
        """As `turns.Side` says."""
        from generation.decoding import stream
        from generation.sampling import make_sampler

        greedy = make_sampler(greedy=True)
        return list(stream(self.model, prompt.input_ids, greedy, prompt.max_new_tokens, self.end_ids))


def _adapted(settings: dict, given: TrainingArguments):
    """The base under the adapter's start, which is written where it is missing, and then read, as PyTorch reads it."""
    from gpt2_jittor.model.classifier import GPT2ForSequenceClassification
    from gpt2_jittor.model.lm import GPT2LMHeadModel
    from lora import inject, load_adapter, save_adapter
    from training.adapter import adapter_config
    from training.plan import set_losses

    stored, labels, start = open_model(settings["base"]), settings["labels"], Path(settings["start"])
    if not settings["dropout"]:
        still = dataclasses.replace(stored.config, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
        stored, given = dataclasses.replace(stored, config=still), dataclasses.replace(given, lora_dropout=0.0)
    head = GPT2ForSequenceClassification if labels else GPT2LMHeadModel
    model = head.from_stored(stored, *([labels, given.seed] if labels else []))
    inject(model, adapter_config(given, bool(labels), base=settings["base"]), given.seed)
    if not start.exists():
        save_adapter(model, start)
    load_adapter(model, start, trained=True, ignore_base=True)  # a base without dropout is another one
    set_losses(model, given)
    return model.to_precision(given.precision).train()


def _items(rows: Rows):
    """The examples of a batch, without pads."""
    classifies = rows.labels.ndim == 1
    for ids, label, mask in zip(*rows, strict=True):
        ids = ids[: int(mask.sum())]
        yield Encoded(ids, ids, int(label)) if classifies else Encoded(ids, label[: len(ids)])


def prepare(settings: dict) -> Turns:
    """What the race asks for its turns."""
    runtime.prepare(settings["device"])
    from gpt2_jittor.runtime.backend import jt

    turns = Turns(OurSide(settings), settings)
    turns.more = {"jittor": importlib.metadata.version("jittor")}
    if settings["device"] == "cuda":
        turns.memory_mb = lambda: jt.get_mem_info().total_cuda_used / 2**20
    return turns


if __name__ == "__main__":
    serve(prepare)
