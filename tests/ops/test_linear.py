"""Projections, plain and with LoRA, fused and composed, against torch in float64: values and each gradient."""

import numpy as np
import pytest
import torch
from operators import assert_close, normal, ours, torchs
from transformers.activations import ACT2FN

from gpt2_jittor.ops import fused
from gpt2_jittor.ops.activation import ACTIVATIONS
from gpt2_jittor.ops.dropout import scaled_mask, seeds
from gpt2_jittor.ops.linear import linear
from gpt2_jittor.ops.lora_linear import lora_linear
from gpt2_jittor.ops.lora_norms import lora_norms
from gpt2_jittor.runtime.backend import jt

# (batch, time, in, out, r); LoRA's kernel takes 64 rows and 64 columns at a time, a width of 1,024 goes through a copy
SHAPES = [(1, 1, 1, 1, 1), (2, 3, 37, 5, 3), (1, 65, 64, 130, 8), (3, 43, 70, 1024, 16)]
P, SCALING = 0.3, 1.7


@pytest.fixture(params=["gelu_new", pytest.param("silu", marks=pytest.mark.long), None])
def activation(request):
    return request.param


def theirs(activation):
    return ACT2FN[activation] if activation else lambda x: x


@pytest.mark.parametrize("shape", SHAPES)
def test_linear_is_torchs(way, rng, shape, activation):
    batch, time, inputs, outputs, _ = shape
    x, weight, bias = normal(rng, batch, time, inputs), normal(rng, inputs, outputs), normal(rng, outputs)
    dy = normal(rng, batch, time, outputs)
    found = ours(lambda *args: linear(*args, ACTIVATIONS.get(activation)), [x, weight, bias], dy)
    assert_close(found, torchs(lambda x, w, b: theirs(activation)(x) @ w + b, [x, weight, bias], dy), 2e-5)


def test_linear_works_without_a_bias(way, rng):
    x, weight = normal(rng, 2, 3, 37), normal(rng, 37, 5)
    assert_close([linear(jt.array(x), jt.array(weight)).numpy()], [x.astype(np.float64) @ weight])


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("dropout", [0.0, P])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_projection_with_lora_is_torchs(way, rng, shape, dropout, activation, dora):
    batch, time, inputs, outputs, r = shape
    arrays = [
        normal(rng, batch, time, inputs),
        normal(rng, inputs, outputs),
        normal(rng, outputs),
        normal(rng, r, inputs),
        normal(rng, outputs, r),
        *([rng.uniform(0.5, 2, outputs).astype(np.float32)] if dora else []),
    ]
    seed = int(rng.integers(2**32))
    seeds.restart(seed, 2)
    mask = torch.tensor(scaled_mask((batch, time, inputs), dropout, seeds.next()).numpy()).double()
    seeds.restart(seed, 2)

    def torch_lora(x, weight, bias, a, b, factor=1):
        z = theirs(activation)(x)
        return (z @ weight + SCALING * (z * (mask if dropout else 1)) @ a.T @ b.T) * factor + bias

    def our_lora(x, weight, bias, a, b, factor=None):
        return lora_linear(x, weight, bias, a, b, SCALING, dropout, ACTIVATIONS.get(activation), factor)

    dy = normal(rng, batch, time, outputs)
    found = ours(our_lora, arrays, dy)
    assert_close(found, torchs(torch_lora, arrays, dy), 2e-5)


def test_a_projection_with_lora_draws_one_seed_where_it_drops(way, rng):
    arrays = [jt.array(normal(rng, *shape)) for shape in ((4, 3), (3, 5), (5,), (2, 3), (5, 2))]
    seeds.restart(0, 0)
    first, second = seeds.next(), seeds.next()
    for dropout, expected in ((0.0, first), (P, second)):
        seeds.restart(0, 0)
        lora_linear(*arrays, SCALING, dropout)
        assert seeds.next() == expected


def test_fused_and_composed_dropout_of_lora_agree(rng):
    arrays = [jt.array(normal(rng, *shape)) for shape in ((4, 3), (3, 5), (5,), (2, 3), (5, 2))]
    seeds.restart(7, 0)
    fast = lora_linear(*arrays, SCALING, P).numpy()
    seeds.restart(7, 0)
    with fused.composed_only():
        assert_close([lora_linear(*arrays, SCALING, P).numpy()], [fast])


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("inputs, outputs, r", [(1, 1, 1), (37, 5, 3), (64, 130, 8)])
def test_doras_norms_are_those_of_the_whole_weight(way, rng, inputs, outputs, r, transposed):
    weight, a, b = normal(rng, inputs, outputs), normal(rng, r, inputs), normal(rng, outputs, r)
    expected = np.linalg.norm(weight.astype(np.float64) + SCALING * (b.astype(np.float64) @ a).T, axis=0)
    squares = jt.array(np.square(weight).sum(0))
    stored = jt.array(np.ascontiguousarray(weight.T) if transposed else weight)
    norms = lora_norms(stored, jt.array(a), jt.array(b), squares, SCALING, transposed)
    assert norms.is_stop_grad()
    assert_close([norms.numpy()], [expected], 2e-5)
