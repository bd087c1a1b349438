"""A cache whose rows come and go: what is read from it is what each row would have had alone."""

import contextlib

import numpy as np
import pytest

from gpt2_jittor.model.cache import MARGIN, KVCache
from gpt2_jittor.ops import fused
from gpt2_jittor.ops.cache_rows import put_rows
from gpt2_jittor.runtime.backend import jt

LAYERS, WIDTH = 2, 5


def held(values: np.ndarray) -> KVCache:
    """A cache of one row with keys `values` [time, width] in its first layer; other numbers follow from them."""
    cache = KVCache()
    cache.extend_mask(np.ones((1, len(values)), np.int32))
    for layer in range(LAYERS):
        cache.append(layer, jt.array(values[None] + layer), jt.array(-values[None] - layer))
    return cache


def read(cache: KVCache, row: int) -> np.ndarray:
    """A row's keys in the first layer, [time, width]; the others are checked against them."""
    alone = cache.row(row)
    keys = alone.layers[0][0].numpy()[0]
    for layer in range(LAYERS):
        np.testing.assert_array_equal(alone.layers[layer][0].numpy()[0], keys + layer)
        np.testing.assert_array_equal(alone.layers[layer][1].numpy()[0], -keys - layer)
    return keys


def grow(cache: KVCache, rng) -> np.ndarray:
    """What a decoding step does: a token for each row, written at its row's own slot; returns them [rows, width]."""
    table = cache.reserve()
    new = rng.standard_normal((cache.rows, WIDTH)).astype(np.float32)
    capacity = cache.layers[0][0].shape[1]
    places = table[:, -1] * capacity + cache.offset + cache.length - 1
    for layer, (keys, values) in cache.layers.items():
        cache.layers[layer] = tuple(put_rows([keys, values], [jt.array(new + layer), jt.array(-new - layer)], places))
    return new


@pytest.mark.parametrize("composed", [False, True], ids=["kernel", "composed"])
def test_rows_join_grow_and_leave_at_random(composed, rng):
    with fused.composed_only() if composed else contextlib.nullcontext():
        cache, rows = KVCache(), []
        for _ in range(60):
            if len(rows) < 6 and rng.random() < 0.5:
                values = rng.standard_normal((rng.integers(1, 2 * MARGIN if rng.random() < 0.2 else 20), WIDTH))
                rows.append(values.astype(np.float32))
                cache.join(held(rows[-1]), most_rows=6)
            if rows:
                new = grow(cache, rng)
                rows = [np.concatenate([row, token[None]]) for row, token in zip(rows, new, strict=True)]
            if rows and rng.random() < 0.3:
                gone = int(rng.integers(len(rows)))
                rows = [row for place, row in enumerate(rows) if place != gone]
                cache.select(np.array([place for place in range(len(rows) + 1) if place != gone], np.int64))
            for place, row in enumerate(rows):
                np.testing.assert_array_equal(read(cache, place), row)
            assert cache.layers == {} or cache.layers[0][0].shape[0] <= 6


def test_the_joined_cache_and_the_read_row_stay_as_they_are(rng):
    first, second = (rng.standard_normal((time, WIDTH)).astype(np.float32) for time in (9, 4))
    source, cache = held(first), KVCache()
    cache.join(source, 4)
    row = cache.row(0)
    cache.join(held(second), 4)
    for _ in range(3):
        grow(cache, rng)
    np.testing.assert_array_equal(read(source, 0), first)
    np.testing.assert_array_equal(row.layers[0][0].numpy()[0], first)
    np.testing.assert_array_equal(read(cache, 1)[:4], second)


def test_a_beginning_is_read_from_the_cache_and_written_elsewhere(rng):
    values = rng.standard_normal((9, WIDTH)).astype(np.float32)
    source = held(values)
    longer = KVCache()
    longer.join(source, 1)  # with room behind its tokens, into which none of the beginnings may write
    for cache, length in ((source, 9), (source, 4), (longer, 9), (longer, 6)):
        part, other = cache.beginning(length), cache.beginning(length)
        new = grow(part, rng)
        other.join(held(values[:3]), 2)
        np.testing.assert_array_equal(read(part, 0), np.concatenate([values[:length], new]))
        np.testing.assert_array_equal(read(other, 0), values[:length])
        np.testing.assert_array_equal(read(other, 1), values[:3])
        np.testing.assert_array_equal(read(cache, 0), values)


def test_rows_that_have_left_are_freed_when_there_is_no_room_for_more_tokens(rng):
    cache = KVCache()
    for _ in range(4):
        cache.join(held(rng.standard_normal((7, WIDTH)).astype(np.float32)), most_rows=4)
    cache.select(np.array([1, 3]))
    for _ in range(MARGIN + 1):
        cache.reserve()
    assert cache.layers[0][0].shape == [2, 7 + 2 * MARGIN, WIDTH]


def test_there_is_room_for_the_rows_that_are_there_and_not_for_all_there_might_be(rng):
    cache = KVCache()
    for count, slots in ((1, 1), (2, 2), (3, 4), (4, 4), (5, 6)):
        cache.join(held(rng.standard_normal((7, WIDTH)).astype(np.float32)), most_rows=6)
        assert cache.rows == count and cache.layers[0][0].shape == [slots, 7 + MARGIN, WIDTH]
