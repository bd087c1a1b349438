"""Plans and padding."""

import numpy as np
import pytest

from datasets.batches import Batch, collate, plan_batches, shard_batch
from datasets.encode import Encoded

LENGTHS = np.random.default_rng(0).integers(3, 200, size=1003)


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return len(one) == len(other) and all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("batch_size", [1, 4, 1003, 5000])
def test_every_example_is_in_the_plan_exactly_once(batch_size, shuffle):
    batches = plan_batches(LENGTHS, batch_size, seed=1, epoch=0, shuffle=shuffle)
    assert sorted(np.concatenate(batches).tolist()) == list(range(1003))
    assert sorted(map(len, batches))[1:] == [batch_size] * (len(batches) - 1)


def test_the_plan_is_a_function_of_seed_and_epoch():
    first = plan_batches(LENGTHS, 4, seed=1, epoch=2)
    assert same(first, plan_batches(LENGTHS.tolist(), 4, seed=1, epoch=2))
    assert not same(first, plan_batches(LENGTHS, 4, seed=1, epoch=3))
    assert not same(first, plan_batches(LENGTHS, 4, seed=2, epoch=2))
    assert not same(plan_batches(LENGTHS, 4, seed=1, epoch=2), plan_batches(LENGTHS, 4, seed=2, epoch=1))


def test_examples_of_a_batch_have_similar_lengths_but_batches_come_in_no_order_of_length():
    batches = plan_batches(LENGTHS, 4, seed=1, epoch=0)
    padded = sum(len(batch) * LENGTHS[batch].max() for batch in batches)
    assert padded < 1.05 * LENGTHS.sum()
    means = [LENGTHS[batch].mean() for batch in batches]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.25


def test_without_shuffling_the_examples_stand_in_order_of_length_and_ties_in_their_own():
    batches = plan_batches([5, 3, 5, 3, 1], 2, seed=1, epoch=0, shuffle=False)
    assert [batch.tolist() for batch in batches] == [[4, 1], [3, 0], [2]]


def test_no_examples_make_no_batches():
    assert plan_batches([], 4, seed=1, epoch=0) == []


ITEMS = [
    Encoded(np.array([7, 8, 9], np.int32), np.array([-100, 8, 9], np.int32)),
    Encoded(np.array([5, 6], np.int32), np.array([5, 6], np.int32)),  # all scored, as in packed text
]


def test_a_batch_is_padded_on_the_right_where_nothing_is_scored_or_attended_to():
    batch = collate(ITEMS, pad_id=0)
    assert batch.input_ids.tolist() == [[7, 8, 9], [5, 6, 0]]
    assert batch.labels.tolist() == [[-100, 8, 9], [-100, 6, -100]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert (batch.tokens, batch.scored) == (5, 3)
    assert {batch.input_ids.dtype, batch.labels.dtype, batch.attention_mask.dtype} == {np.dtype(np.int32)}


def test_a_batch_to_classify_has_a_class_a_row_and_scores_the_rows():
    unscored = [np.full_like(item.labels, -100) for item in ITEMS]
    items = [
        Encoded(item.input_ids, labels, label) for item, labels, label in zip(ITEMS, unscored, (0, 5), strict=True)
    ]
    batch, plain = collate(items, pad_id=0), collate(ITEMS, pad_id=0)
    assert (batch.labels.tolist(), batch.labels.dtype) == ([0, 5], np.int32), "class 0 is a class"
    assert batch.input_ids.tolist() == plain.input_ids.tolist()
    assert batch.attention_mask.tolist() == plain.attention_mask.tolist()
    assert (batch.tokens, batch.scored) == (5, 2)


def rows_of(batch: Batch | None) -> list[tuple]:
    """Each row without its padding: ids, and their labels or the class."""
    if batch is None:
        return []
    lengths = batch.attention_mask.sum(axis=1)
    rows = zip(batch.input_ids, batch.labels, lengths, strict=True)
    return [(ids[:length].tolist(), np.atleast_1d(labels)[:length].tolist()) for ids, labels, length in rows]


@pytest.mark.parametrize("classes", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_the_parts_of_a_batch_hold_each_row_once_and_nothing_else(rng, count, classes):
    items = []
    for length in rng.integers(2, 9, size=5):
        ids = rng.integers(0, 99, length).astype(np.int32)
        items.append(Encoded(ids, np.where(rng.random(length) < 0.5, ids, -100), int(ids[0]) if classes else None))
    items[3].labels[-1] = items[3].input_ids[-1]
    whole = collate(items, pad_id=0)
    parts = [shard_batch(whole, rank, count) for rank in range(count)]
    assert [rows_of(p) for p in parts] == [rows_of(whole)[rank::count] if p else [] for rank, p in enumerate(parts)]
    assert sum(p.scored for p in parts if p) == whole.scored
    for p in filter(None, parts):
        assert p.scored > 0 and p.attention_mask.any(axis=0).all(), "padded no further than to its longest row"
        assert p.tokens == p.attention_mask.sum()
    for rank, p in enumerate(parts):
        if p is None:
            assert sum(item.label is not None or (item.labels[1:] != -100).any() for item in items[rank::count]) == 0
