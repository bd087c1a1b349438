"""What a single update is made of: a model with an adapter, batches, and the memory that they take."""

import numpy as np

from datasets.batches import Batch
from gpt2_jittor.checkpoint.locate import NANO
from gpt2_jittor.model.lm import GPT2LMHeadModel
from lora import LoraConfig, inject, trainable


def adapted():
    """The embedded model with a random adapter, and the adapter's parameters."""
    config = LoraConfig(r=4, target_modules=["c_attn", "c_proj", "c_fc"], init_lora_weights=False)
    model = inject(GPT2LMHeadModel.from_pretrained(NANO), config)
    return model, [parameter for _, parameter in trainable(model)]


def draw(rng, rows: int, time: int, scored: int) -> Batch:
    """Random ids [rows, time], of which the last `scored` of each row are."""
    ids = rng.integers(0, 8192, (rows, time)).astype(np.int32)
    labels = ids.copy()
    labels[:, : time - scored] = -100
    return Batch(ids, labels, np.ones_like(ids), ids.size, rows * scored)
