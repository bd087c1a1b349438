"""What a training step and a generated token make Jittor compile and run on CUDA, as JSON on the last line.

Run on the emulated device by `tools/cuda/compile.py` and by a test. Sizes are tiny: operators do not depend on them.
"""

import ctypes
import json
from collections.abc import Callable

import numpy as np

from benchmarks import profiling
from gpt2_jittor.checkpoint.config import GPT2Config
from gpt2_jittor.runtime import runtime

SIZES = {"vocab_size": 301, "n_positions": 64, "n_embd": 64, "n_layer": 2, "n_head": 1}
BATCH, TIME, NEW = 2, 24, 4


def works() -> dict[str, Callable]:
    """By name, what is run: a LoRA training step with dropout and clipping, a validation batch, two answers.

    Each returns numbers: the loss, the losses, the ids. One answer is greedy, by a model with an adapter beside its
    weights; the other is drawn, by one of weights alone.
    """
    from datasets.batches import Batch
    from generation.decoding import generate
    from generation.sampling import make_sampler
    from gpt2_jittor.model.lm import GPT2LMHeadModel
    from gpt2_jittor.runtime.backend import jt
    from lora import LoraConfig, inject, trainable
    from training.optimizer import AdamW
    from training.step import update

    model, plain = GPT2LMHeadModel(GPT2Config(**SIZES)), GPT2LMHeadModel(GPT2Config(**SIZES))
    random = np.random.default_rng(0)
    for parameter in [*model.parameters(), *plain.parameters()]:
        parameter.assign(random.standard_normal(parameter.shape, dtype=np.float32) * np.float32(0.2))
    inject(model, LoraConfig(r=8, lora_alpha=16, lora_dropout=0.1, target_modules=["c_attn", "c_proj", "c_fc"]))
    optimizer = AdamW(trainable(model), weight_decay=0.01)
    ids = np.arange(BATCH * TIME, dtype=np.int32).reshape(BATCH, TIME)
    batch = Batch(ids, ids, np.ones_like(ids), tokens=ids.size, scored=ids.size - BATCH)

    def train():
        """One update; its loss, in nats."""
        model.train()
        return [update(model, optimizer, [batch], 1e-4, 1.0, dropout_seed=(0, optimizer.steps)).loss]

    def validate():
        """The loss of each scored position, in nats."""
        model.eval()
        with jt.no_grad():
            return model.losses(batch.input_ids, batch.labels, batch.attention_mask).numpy().tolist()

    def answer():
        """The ids of one greedy answer."""
        model.eval()
        return generate(model, [ids[0, :9]], make_sampler(greedy=True), NEW, end_id=None)[0].ids

    def draw():
        """The ids of one answer that is drawn."""
        sampler = make_sampler(temperature=0.7, top_k=40, top_p=0.9, seed=0)
        return generate(plain, [ids[0, :9]], sampler, NEW, end_id=None)[0].ids

    return {
        "training step": train,
        "validation batch": validate,
        f"prompt and {NEW} tokens": answer,
        "the same, drawn, no adapter": draw,
    }


def profiled(work: Callable) -> list[dict]:
    """The operators that `work` runs: Jittor's key, the source, how often."""
    rows = profiling.operators(work)
    return [{"key": row["Name"], "source": row["FileName"], "count": int(row["Count"])} for row in rows]


def counted(work: Callable) -> dict[str, int]:
    """What `work` asks of the emulated device: launches, products, copies."""
    counts_as_json = ctypes.CDLL("libcudart.so.12").emulationCounts
    counts_as_json.restype = ctypes.c_char_p
    before = json.loads(counts_as_json())
    work()
    after = json.loads(counts_as_json())
    return {name: count - before[name] for name, count in after.items() if isinstance(count, int)}


def main() -> None:
    """Prints the report as JSON: of each piece of work its result, its operators and its counts."""
    runtime.prepare("cuda")
    from gpt2_jittor.runtime.backend import jt

    report = {"nvcc_flags": jt.flags.nvcc_flags, "works": {}}
    for name, work in works().items():
        first = work()  # what a first step alone does, such as compiling, is not counted
        report["works"][name] = {"result": first, "operators": profiled(work), "counts": counted(work)}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
