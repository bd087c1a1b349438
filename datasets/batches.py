"""Which examples go together, and how they become rectangles.

Padding is work thrown away, so examples of similar length share a batch. The plan is a pure function of
seed and epoch: a resumed run makes the plan anew and goes on in the middle of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datasets.encode import IGNORED, Encoded, count_scored

CHUNK = 50  # batches sorted together: long enough to find similar lengths, short enough to stay random


@dataclass(frozen=True)
class Batch:
    """`input_ids`, `labels` (-100 on pads) and `attention_mask` (0 on pads): int32 [batch, time].

    For classification `labels` are the classes, [batch]. `tokens` counts the real tokens, `scored` the tokens
    that enter the loss after the model's shift, or the classes.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    attention_mask: np.ndarray
    tokens: int
    scored: int


def plan_batches(
    lengths: Sequence[int], batch_size: int, seed: int, epoch: int, shuffle: bool = True
) -> list[np.ndarray]:
    """The batches of one epoch, as arrays of indexes into `lengths`: int64 [<= batch_size], each index once.

    Without `shuffle`, examples stand in order of length, equal ones in their own order.
    """
    lengths = np.asarray(lengths)
    if not shuffle:
        return _split(np.argsort(lengths, kind="stable"), batch_size)
    random = np.random.default_rng([seed, epoch])
    chunks = _split(random.permutation(len(lengths)), batch_size * CHUNK)
    batches = [
        batch for chunk in chunks for batch in _split(chunk[np.argsort(lengths[chunk], kind="stable")], batch_size)
    ]
    return [batches[index] for index in random.permutation(len(batches))]


def collate(items: Sequence[Encoded], pad_id: int) -> Batch:
    """Pads `items` to the longest of them, on their right.

    An item's first token is never scored: nothing real comes before it.
    """
    shape = (len(items), max(len(item.input_ids) for item in items))  # [batch, time]
    input_ids = np.full(shape, pad_id, np.int32)
    labels = np.full(shape, IGNORED, np.int32)
    attention_mask = np.zeros(shape, np.int32)
    for row, item in enumerate(items):
        end = len(item.input_ids)
        input_ids[row, :end] = item.input_ids
        labels[row, 1:end] = item.labels[1:]
        attention_mask[row, :end] = 1
    tokens = int(attention_mask.sum())
    if items[0].label is not None:
        return Batch(input_ids, np.array([item.label for item in items], np.int32), attention_mask, tokens, len(items))
    return Batch(input_ids, labels, attention_mask, tokens, count_scored(labels))


def shard_batch(batch: Batch, rank: int, count: int) -> Batch | None:
    """What process `rank` of `count` takes of a batch that is padded on the right: every count-th row, from `rank`.

    None where no row is left for it, or nothing is scored in its rows.
    """
    rows = slice(rank, None, count)
    mask, labels = batch.attention_mask[rows], batch.labels[rows]
    if not len(mask):
        return None
    time = int(mask.sum(axis=1).max())
    mask = mask[:, :time]
    if labels.ndim == 1:
        scored = len(labels)
    else:
        labels = labels[:, :time]
        scored = count_scored(labels)
    return Batch(batch.input_ids[rows, :time], labels, mask, int(mask.sum()), scored) if scored else None


def _split(indexes: np.ndarray, size: int) -> list[np.ndarray]:
    return [indexes[start : start + size] for start in range(0, len(indexes), size)]
