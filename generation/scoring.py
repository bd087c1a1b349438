"""How probable a model finds what is there: the loss of each example's scored tokens, or of its class.

The mean is over scored tokens, so that long and short examples count by what they score.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from common import processes
from common.terminal import bar
from datasets.batches import Batch, collate, plan_batches
from datasets.encode import IGNORED, EncodedSet
from gpt2_jittor.model.classifier import GPT2ForSequenceClassification
from gpt2_jittor.model.pretrained import GPT2PreTrained, evaluating
from gpt2_jittor.runtime.backend import jt

# arrays of this process -> their sums over all processes, which make them together: `training.distributed.summed`
SumOver = Callable[[Sequence[np.ndarray]], list[np.ndarray]]


@dataclass(frozen=True)
class Score:
    """Mean loss in nats over `tokens` scored tokens or classes of `examples`; `accuracy`, for classification."""

    loss: float
    tokens: int
    accuracy: float | None = None
    examples: int = 0

    @property
    def perplexity(self) -> float:
        """exp(loss), with 700 for any loss above it."""
        return math.exp(min(self.loss, 700.0))  # beyond that a float overflows

    def __str__(self) -> str:
        said = f"perplexity {self.perplexity:.2f}" if self.accuracy is None else f"accuracy {self.accuracy:.1%}"
        return f"loss {self.loss:.4f}, {said}"


@dataclass(frozen=True)
class Losses:
    """For each example, in the data's order: its summed loss (nats, float64), how much was scored, and for
    classification the scores of the classes, float32 [examples, labels]."""

    sums: np.ndarray
    counts: np.ndarray
    logits: np.ndarray | None = None

    def score(self, data: EncodedSet) -> Score:
        """All examples as one figure, weighted by what each scores."""
        accuracy = None
        if self.logits is not None:
            accuracy = float(np.mean(self.logits.argmax(axis=1) == [item.label for item in data.items]))
        return Score(float(self.sums.sum() / self.counts.sum()), int(self.counts.sum()), accuracy, len(data))


def evaluate(
    model: GPT2PreTrained, data: EncodedSet, batch_size: int, pad_id: int, sum_over: SumOver | None = None
) -> Score:
    """The token-weighted loss over all of `data`, without dropout. The model's mode is put back.

    `sum_over`: as of `losses`.
    """
    return losses(model, data, batch_size, pad_id, sum_over).score(data)


def losses(
    model: GPT2PreTrained, data: EncodedSet, batch_size: int, pad_id: int, sum_over: SumOver | None = None
) -> Losses:
    """The loss of each example, without dropout. The model's mode is put back.

    With `sum_over`, all processes of a run must call this together: they share the work, and each gets the whole.
    Without it, this process measures everything.
    """
    batches = plan_batches(data.lengths, batch_size, seed=0, epoch=0, shuffle=False)
    classes = model.config.labels if isinstance(model, GPT2ForSequenceClassification) else ()
    sums, counts, logits = np.zeros(len(data)), np.zeros(len(data)), np.zeros((len(data), len(classes)))
    own = batches[processes.rank() :: processes.count()] if sum_over else batches
    with evaluating(model), jt.no_grad():
        for indexes in bar("validate", iterable=own, unit="batch", leave=False):
            batch = collate([data[index] for index in indexes], pad_id)
            if classes:
                logits[indexes] = model(batch.input_ids, batch.attention_mask).numpy()
                sums[indexes], counts[indexes] = cross_entropy(logits[indexes], batch.labels), 1
            else:
                sums[indexes], counts[indexes] = _by_row(model, batch)
    if sum_over:
        sums, counts, logits = sum_over([sums, counts, logits])  # what a process has not seen is 0 to it
    return Losses(sums, counts.astype(np.int64), logits.astype(np.float32) if classes else None)


def cross_entropy(logits: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """-log softmax(logits)[class] of each row, [rows, classes] and [rows] -> float64 [rows]."""
    logits = logits.astype(np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(classes)), classes]


def _by_row(model: GPT2PreTrained, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """The summed loss and the scored tokens of each row."""
    each = model.losses(batch.input_ids, batch.labels, batch.attention_mask).numpy().astype(np.float64)
    counts = (batch.labels[:, 1:] != IGNORED).sum(axis=1)
    rows = np.repeat(np.arange(len(counts)), counts)  # scored positions come in reading order
    return np.bincount(rows, each, minlength=len(counts)), counts


def class_shares(model: GPT2ForSequenceClassification, input_ids, attention_mask=None) -> np.ndarray:
    """Each row's probability of each class, float64 [batch, labels], without dropout; ids and mask [batch, time]."""
    with evaluating(model), jt.no_grad():
        logits = model(input_ids, attention_mask).numpy().astype(np.float64)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)
