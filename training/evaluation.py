"""Validation: the mean loss over scored tokens, so that long and short examples count by what they score."""

import math
from dataclasses import dataclass

from tqdm import tqdm

from datasets.batches import collate, plan
from datasets.encode import EncodedSet
from gpt2_jittor.backend import jt
from gpt2_jittor.pretrained import GPT2PreTrained


@dataclass(frozen=True)
class Score:
    """Mean loss in nats over `tokens` scored tokens."""

    loss: float
    tokens: int

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700.0))  # beyond that a float overflows


def evaluate(model: GPT2PreTrained, data: EncodedSet, batch_size: int, pad_id: int) -> Score:
    """The token-weighted loss over all of `data`, without dropout. The model's mode is put back."""
    batches = plan(data.lengths, batch_size, seed=0, epoch=0, shuffle=False)
    training = model.is_training()
    model.eval()
    total, tokens = 0.0, 0
    with jt.no_grad():
        for indexes in tqdm(batches, desc="validate", unit="batch", leave=False, dynamic_ncols=True):
            batch = collate([data[index] for index in indexes], pad_id)
            losses = model.losses(batch.input_ids, batch.labels, batch.attention_mask)
            total += float(losses.numpy().sum(dtype="float64"))
            tokens += batch.scored
    if training:
        model.train()
    return Score(total / tokens, tokens)
