"""Products in bfloat16 by the CPU's kernels, beside their definition: both matrices rounded by torch, exact sums."""

import numpy as np
import pytest
import torch
from halves import EPSILON, relative
from operators import assert_close, normal, ours
from torch.nn import functional

from gpt2_jittor.ops import fused
from gpt2_jittor.ops.attention import attention
from gpt2_jittor.ops.head_loss import head_loss
from gpt2_jittor.ops.linear import linear
from gpt2_jittor.ops.lora_linear import lora_linear
from gpt2_jittor.ops.matmul import products_in, to_half
from gpt2_jittor.runtime.backend import jt

SHAPES = [(1, 1, 1), (5, 37, 3), (7, 300, 515), (70, 33, 130)]
pytestmark = pytest.mark.skipif(not fused.products_on_cpu(), reason="oneDNN is not loaded")


@pytest.fixture(autouse=True)
def bf16():
    with products_in("bf16"):
        yield


def rounded(x) -> np.ndarray:
    return torch.tensor(x).to(torch.bfloat16).double().numpy()


def kept(weight: np.ndarray):
    """The weight of a frozen base, as `to_precision` keeps it."""
    return to_half(weight, "bf16").stop_grad()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_trained_projection_and_its_gradients_are_exact_sums_of_rounded_numbers(rng, shape):
    rows, inputs, outputs = shape
    x, weight, bias, dy = (
        normal(rng, *some) for some in ((rows, inputs), (inputs, outputs), (outputs,), (rows, outputs))
    )
    found = ours(linear, [x, weight, bias], dy)
    x, weight, given = rounded(x), rounded(weight), rounded(dy)
    assert_close(found, [x @ weight + bias, given @ weight.T, x.T @ given, dy.astype(np.float64).sum(0)])


@pytest.mark.parametrize("shape", SHAPES)
def test_a_frozen_projection_is_multiplied_as_it_is_kept(rng, shape):
    rows, inputs, outputs = shape
    x, weight, dy = normal(rng, rows, inputs), normal(rng, inputs, outputs), normal(rng, rows, outputs)
    var = kept(weight)
    found = ours(lambda x: linear(x, var), [x], dy)
    assert_close(found, [rounded(x) @ rounded(weight), rounded(dy) @ rounded(weight).T])


def test_lora_beside_it_is_float32(rng):
    rows, inputs, outputs, r, scaling = 70, 33, 130, 5, 0.7
    x, weight, bias, a, b = (
        normal(rng, *shape) for shape in ((rows, inputs), (inputs, outputs), (outputs,), (r, inputs), (outputs, r))
    )
    dy, var = normal(rng, rows, outputs), kept(weight)
    found = ours(lambda x, bias, a, b: lora_linear(x, var, bias, a, b, scaling), [x, bias, a, b], dy)
    exact = [value.astype(np.float64) for value in (x, bias, a, b, dy)]
    weight, (x64, bias, a, b, dy64) = rounded(weight), exact
    expected = [
        rounded(x) @ weight + bias + scaling * x64 @ a.T @ b.T,
        rounded(dy) @ weight.T + scaling * dy64 @ b @ a,
        dy64.sum(0),
        scaling * b.T @ dy64.T @ x64,
        scaling * dy64.T @ (x64 @ a.T),
    ]
    assert_close(found, expected)


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("shape", [(1, 3, 2), (37, 20, 2500)])
def test_a_heads_loss_is_that_of_rounded_numbers(rng, shape, trained):
    rows, width, vocab = shape
    hidden, weight, dloss = normal(rng, rows, width), normal(rng, vocab, width), normal(rng, rows)
    targets = np.array([vocab - 1, *rng.integers(0, vocab, rows - 1)], np.int32)
    var = kept(weight)
    if trained:
        found = ours(lambda h, w: head_loss(h, w, jt.array(targets)), [hidden, weight], dloss)
    else:
        found = ours(lambda h: head_loss(h, var, jt.array(targets)), [hidden], dloss)
    h, w = (torch.tensor(rounded(x), requires_grad=True) for x in (hidden, weight))
    loss = functional.cross_entropy(h @ w.T, torch.tensor(targets).long(), reduction="none")
    gradients = torch.autograd.grad(loss, (h, w), torch.tensor(dloss).double())
    assert_close(found[:1], [loss.detach().numpy()])
    for gradient, right in zip(found[1:], gradients, strict=False):  # of rounded probabilities
        assert relative(gradient, right.numpy()) < EPSILON["bf16"]


def test_rows_that_replace_a_tables_are_float32(rng):
    hidden, weight, rows = normal(rng, 6, 20), normal(rng, 50, 20), normal(rng, 2, 20)
    targets, tokens, var = np.array([3, 7, 49, 0, 3, 1], np.int32), np.array([3, 49], np.int32), kept(weight)
    loss = head_loss(jt.array(hidden), var, jt.array(targets), jt.array(tokens), jt.array(rows)).numpy()
    logits = rounded(hidden) @ rounded(weight).T
    logits[:, tokens] = hidden.astype(np.float64) @ rows.T
    expected = functional.cross_entropy(torch.tensor(logits), torch.tensor(targets).long(), reduction="none")
    assert_close([loss], [expected.numpy()])


def test_attention_among_them_is_float32s(rng):
    qkv, mask = jt.array(normal(rng, 2, 9, 3 * 32)), jt.array(np.ones((2, 9), np.int32))
    found = attention(qkv, mask, 4, 0.3).numpy()
    with products_in("fp32"):
        np.testing.assert_array_equal(attention(qkv, mask, 4, 0.3).numpy(), found)


def test_ties_go_to_even_and_what_is_not_finite_stays_so(rng):
    tie = 2.0**-8
    x = np.array([[1 + tie], [1 + 3 * tie], [-1 - tie], [3e38], [-np.inf], [np.nan], [-np.nan]], np.float32)
    found = linear(jt.array(x), jt.array(np.ones((1, 1), np.float32))).numpy()
    np.testing.assert_array_equal(found, rounded(x).astype(np.float32))
