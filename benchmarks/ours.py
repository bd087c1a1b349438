"""This project as a contestant, on the CPU or on CUDA: LoRA training steps, greedy decoding, a chat's next turn."""

import contextlib
import itertools
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.worker import parts_of_epoch, serve
from datasets.batches import Batch
from datasets.encode import count_scored
from gpt2_jittor.runtime import runtime

for_good = contextlib.ExitStack()  # closed when the process ends


def train(settings: dict):
    """One update a unit: the trainer's own."""
    from gpt2_jittor.runtime.backend import jt
    from lora import LoraConfig, inject, trainable
    from training import step
    from training.optimizer import AdamW

    model = _model(settings)
    targets = ["c_attn", "c_proj", "c_fc"]
    numbers = {"r": 8, "lora_alpha": 16, "lora_dropout": settings["lora_dropout"]}
    inject(model, LoraConfig(target_modules=targets, use_dora=settings.get("dora", False), **numbers))
    model.to_precision(settings.get("precision", "fp32")).train()
    model.transformer.gradient_checkpointing = settings.get("gradient_checkpointing", False)
    optimizer = AdamW(trainable(model), weight_decay=0.01)
    batches = _batches(settings)

    def update() -> float:
        """One unit, waited for: its loss, in nats."""
        made = optimizer.steps
        result = step.update(model, optimizer, [batches[made % len(batches)]], 1e-4, 1.0, dropout_seed=(0, made))
        jt.sync_all(True)
        return result.loss

    return parts_of_epoch(update, len(batches), settings["parts"]) if settings["task"] == "epoch" else update


def decode(settings: dict):
    """`new` tokens after each of `batch` prompts, greedy or drawn, a unit."""
    from generation.decoding import generate
    from generation.sampling import make_sampler

    model = _model(settings)
    prompts, top_p = np.load(settings["data"])["prompts"], settings.get("top_p")
    sampler = make_sampler(greedy=True) if top_p is None else make_sampler(top_p=top_p, seed=0)

    def continuation() -> float:
        """One unit: how many tokens were made."""
        results = generate(model, list(prompts), sampler, settings["new"], end_id=None)
        return float(sum(result.tokens for result in results))

    return continuation


def chat(settings: dict):
    """The first token of a chat's next turn, a unit; keys and values of its history are kept, or computed again."""
    from generation.decoding import stream
    from generation.prefixes import Prefixes
    from generation.sampling import make_sampler

    model, data = _model(settings), np.load(settings["data"])
    turns, kept = itertools.cycle(data["turns"]), Prefixes(model.config.n_positions)

    def first_token() -> float:
        """One unit: the token."""
        prompt = np.concatenate([data["history"], next(turns)])
        keeping = kept if settings["keeps"] else None
        return float(next(stream(model, prompt, make_sampler(greedy=True), 1, None, keeping)))

    return first_token


def _model(settings: dict):
    from gpt2_jittor import GPT2LMHeadModel

    kept = {name: settings.get(name, "fp32") for name in ("base", "weights")}
    return GPT2LMHeadModel.from_pretrained(settings["model"], **kept)


def _batches(settings: dict) -> list[Batch]:
    """What the race wrote."""
    data = np.load(settings["data"])
    several = []
    for index in range(int(data["count"])):
        ids, labels, mask = (data[f"{name}{index}"] for name in ("ids", "labels", "mask"))
        several.append(Batch(ids, labels, mask, int(mask.sum()), count_scored(labels)))
    return several


def forget_kernels() -> None:
    """Lets this process find no compiled operator, and compile into a folder of its own."""
    from gpt2_jittor.runtime.backend import jt

    folder = Path(for_good.enter_context(tempfile.TemporaryDirectory()))
    (folder / "jit").mkdir()
    jt.flags.cache_path = str(folder)


def prepare(settings: dict):
    """The unit of work that the settings name."""
    device = runtime.prepare(settings.get("device", "cpu"))
    from gpt2_jittor.ops import fused
    from gpt2_jittor.runtime.backend import jt

    if not settings.get("fused", True):
        for_good.enter_context(fused.composed_only())
    if settings.get("cold"):
        forget_kernels()
    work = {"train": train, "epoch": train, "decode": decode, "chat": chat}[settings["task"]](settings)
    if device == "cuda":
        work.memory_mb = lambda: jt.get_mem_info().total_cuda_used / 2**20
    return work


if __name__ == "__main__":
    serve(prepare)
