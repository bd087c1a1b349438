"""The head's loss, fused and composed, against torch in float64: values and each gradient."""

import numpy as np
import pytest
import torch
from operators import assert_close, normal, ours, torchs
from torch.nn import functional

from gpt2_jittor.ops.head_loss import head_loss
from gpt2_jittor.runtime.backend import jt

# (rows, width, vocabulary): the kernel takes 1,024 rows and 1,024 words at a time
SHAPES = [(1, 1, 1), (3, 5, 7), (7, 36, 1024), (5, 3, 1025), (1030, 4, 2500)]


def draw(rng, rows, width, vocab, scale):
    """Hidden states, a head, targets and a gradient of the loss; logits with a deviation of `scale`."""
    hidden, weight = normal(rng, rows, width), normal(rng, vocab, width, scale=scale / np.sqrt(width))
    return hidden, weight, rng.integers(0, vocab, rows).astype(np.int32), normal(rng, rows)


def both(arrays, targets, dloss):
    """Loss and gradients of hidden states under a head: ours, and torch's in float64."""
    expected = torchs(
        lambda h, w: functional.cross_entropy(h @ w.T, torch.tensor(targets).long(), reduction="none"), arrays, dloss
    )
    return ours(lambda h, w: head_loss(h, w, jt.array(targets)), arrays, dloss), expected


@pytest.mark.parametrize("scale", [1, 100])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_loss_of_a_head_is_torchs(way, rng, shape, scale):
    hidden, weight, targets, dloss = draw(rng, *shape, scale)
    found, expected = both([hidden, weight], targets, dloss)
    # a logit of some hundreds rounds at 1e-5, and its exponential by as much
    assert_close(found, expected, 1e-5 * max(1, scale / 5))


@pytest.mark.parametrize(
    ("low", "high"), [(-1e4, 1e4), (-103, -97), (9997, 10003)], ids=["far apart", "GPT-2's", "large"]
)
@pytest.mark.parametrize(("rows", "classes"), [(1, 7), (5, 131), (67, 1100)])
def test_no_size_of_logit_is_too_much(way, rng, rows, classes, low, high):
    logits = rng.uniform(low, high, (rows, classes)).astype(np.float32)
    targets, dloss = rng.integers(0, classes, rows).astype(np.int32), normal(rng, rows)
    arrays = [np.eye(rows, dtype=np.float32), np.ascontiguousarray(logits.T)]  # their product is exact
    found, expected = both(arrays, targets, dloss)
    loss, by_hidden, by_weight = zip(found, expected, strict=True)
    assert_close(*zip(loss, by_weight, strict=True))
    # a sum of logits times probabilities less another logit: roundings are those of the logits, and of the sum that the
    # probabilities are divided by, where terms added one after the other have √terms half units (6e-8) in the mean
    bound = 2e-6 * max(1, np.sqrt(classes) / 8) * np.abs(logits).max() * np.abs(dloss).max()
    assert np.abs(by_hidden[0] - by_hidden[1]).max() < bound


@pytest.mark.parametrize("first", [0, 2040])
def test_the_largest_logit_may_stand_in_any_block(way, rng, first):
    hidden, weight, targets, dloss = draw(rng, 9, 6, 4200, 1)
    weight[first : first + 20] *= 30
    found, expected = both([hidden, weight], targets, dloss)
    assert_close(found, expected, 5e-5)


@pytest.mark.parametrize("vocab", [3, 301, 4100])
def test_rows_stand_in_place_of_the_weights(way, rng, vocab):
    hidden, weight, targets, dloss = draw(rng, 40, 12, vocab, 3)
    tokens = rng.permutation(vocab)[: min(vocab, 5)].astype(np.int32)
    targets[: len(tokens)] = tokens
    rows = normal(rng, len(tokens), 12)
    frozen = jt.array(weight).stop_grad()
    found = ours(lambda h, r: head_loss(h, frozen, jt.array(targets), jt.array(tokens), r), [hidden, rows], dloss)

    def theirs(h, r):
        whole = torch.tensor(weight).double().index_put((torch.tensor(tokens).long(),), r)
        return functional.cross_entropy(h @ whole.T, torch.tensor(targets).long(), reduction="none")

    assert_close(found, torchs(theirs, [hidden, rows], dloss), 2e-5)


@pytest.mark.parametrize("smoothing", [0.1, pytest.param(0.73, marks=pytest.mark.long)])
@pytest.mark.parametrize("shape", SHAPES)
def test_smoothed_labels_have_torchs_loss(way, rng, shape, smoothing):
    hidden, weight, targets, dloss = draw(rng, *shape, 1)
    of_ours, of_torch = jt.array(targets), torch.tensor(targets).long()
    found = ours(lambda h, w: head_loss(h, w, of_ours, smoothing=smoothing), [hidden, weight], dloss)

    def theirs(h, w):
        return functional.cross_entropy(h @ w.T, of_torch, reduction="none", label_smoothing=smoothing)

    assert_close(found, torchs(theirs, [hidden, weight], dloss))


def test_smoothed_labels_bear_logits_as_low_as_gpt2s(way, rng):
    hidden, weight, targets, dloss = draw(rng, 9, 36, 1500, 2)
    hidden[:, 0], weight[:, 0] = 10, -10  # all of them about -100
    found = ours(lambda h, w: head_loss(h, w, jt.array(targets), smoothing=0.1), [hidden, weight], dloss)

    def theirs(h, w):
        return functional.cross_entropy(h @ w.T, torch.tensor(targets).long(), reduction="none", label_smoothing=0.1)

    # a logit of 100 rounds at 8e-6; ten times what 1,500 probabilities come to, as large as the loss' gradient, at 1e-5
    assert_close(found, torchs(theirs, [hidden, weight], dloss), 3e-5 * max(1, np.abs(dloss).max()))


@pytest.mark.parametrize("vocab", [3, 301])
def test_smoothed_labels_count_the_rows_that_stand_in_place_of_the_weights(way, rng, vocab):
    hidden, weight, targets, dloss = draw(rng, 40, 12, vocab, 3)
    tokens = rng.permutation(vocab)[: min(vocab, 5)].astype(np.int32)
    targets[: len(tokens)] = tokens
    rows = normal(rng, len(tokens), 12)
    frozen, of_ours = jt.array(weight).stop_grad(), jt.array(targets)
    found = ours(lambda h, r: head_loss(h, frozen, of_ours, jt.array(tokens), r, smoothing=0.2), [hidden, rows], dloss)

    def theirs(h, r):
        whole = torch.tensor(weight).double().index_put((torch.tensor(tokens).long(),), r)
        return functional.cross_entropy(
            h @ whole.T, torch.tensor(targets).long(), reduction="none", label_smoothing=0.2
        )

    assert_close(found, torchs(theirs, [hidden, rows], dloss), 2e-5)


def test_without_gradients_the_loss_is_the_same(way, rng):
    hidden, weight, targets, _ = draw(rng, 11, 8, 2100, 2)
    trained = head_loss(jt.array(hidden), jt.array(weight), jt.array(targets)).numpy()
    with jt.no_grad():
        found = head_loss(jt.array(hidden), jt.array(weight), jt.array(targets)).numpy()
    # on CUDA other operators are fused with one another, and products are added to sums without being rounded first
    np.testing.assert_allclose(found, trained, rtol=1e-6 if jt.flags.use_cuda else 0)
