"""Every operator, fused and composed, against torch in float64: values and each gradient."""

import numpy as np
import pytest
import torch
from operators import TOLERANCE, assert_close, normal, ours, torchs
from torch.nn import functional
from transformers.activations import ACT2FN

from gpt2_jittor.checkpoint import config
from gpt2_jittor.ops import fused
from gpt2_jittor.ops.activation import ACTIVATIONS
from gpt2_jittor.ops.attention import attention, cached_attention
from gpt2_jittor.ops.dropout import add_dropped, dropout, seeds
from gpt2_jittor.ops.layer_norm import layer_norm
from gpt2_jittor.runtime.backend import jt

SIGMAS = 6  # a frequency this many deviations off happens twice in 10⁹ runs


# --- layer norm


@pytest.mark.parametrize("width", [1, 37, 130])
@pytest.mark.parametrize("mean", [0, 1e3, 1e4])
def test_layer_norm_is_torchs_even_where_the_mean_is_large(way, rng, width, mean):
    x, weight, bias, dy = normal(rng, 3, 5, width) + np.float32(mean), *normal(rng, 2, width), normal(rng, 3, 5, width)
    found = ours(lambda *args: layer_norm(*args, 1e-5), [x, weight, bias], dy)
    expected = torchs(lambda x, w, b: functional.layer_norm(x, (width,), w, b, 1e-5), [x, weight, bias], dy)
    # The mean is a sum of float32, each step of which rounds at 6e-8 of it, in units of x's deviation, 1.
    # A row of one has no deviation and is divided by √eps: its gradient, 0, is 316 times a rounding.
    assert_close(found, expected, TOLERANCE + 16 * 6e-8 * mean + (5e-4 if width == 1 else 0))


# --- activations


def test_there_is_a_function_for_each_activation_that_a_configuration_may_name():
    assert set(ACTIVATIONS) == set(config.ACTIVATIONS)


def activation_matches(name, rng):
    x = np.concatenate([np.arange(-60, 61), rng.uniform(-60, 60, 300), normal(rng, 300)]).astype(np.float32)
    dy = normal(rng, x.size)
    assert_close(ours(ACTIVATIONS[name], [x], dy), torchs(ACT2FN[name], [x], dy))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_transformers_between_minus_60_and_60(name, rng):
    activation_matches(name, rng)


def test_far_out_the_gradient_of_gelu_new_is_1_or_0(way):
    """Where x³ times a rounding would be seen: beyond float16, but not beyond what a run that diverges computes."""
    x = np.float32([1e3, 1e5, 1e6, 1e9, 1e12, -1e3, -1e6, -1e9])
    found = ours(ACTIVATIONS["gelu_new"], [x], np.ones_like(x))
    np.testing.assert_allclose(found[1], (x > 0).astype(np.float32), atol=2e-7)  # roundings of 1


def test_the_composed_gelu_new_is_transformers(rng):
    with fused.composed_only():
        activation_matches("gelu_new", rng)


# --- attention: (batch, heads, time, dim); blocks of the kernel hold 64 queries

SHAPES = [(1, 1, 1, 1), (2, 3, 5, 7), (1, 2, 63, 5), (2, 1, 64, 3), (1, 3, 65, 8), (2, 2, 130, 9)]
MASKS = ["none", "left", "right", "a row of pads"]


def make_mask(kind, batch, time):
    mask = np.ones((batch, time), np.int32)
    if kind == "left":
        mask[0, : time // 2] = 0
    elif kind == "right":
        mask[0, (time + 1) // 2 :] = 0
    elif kind == "a row of pads":
        mask[-1] = 0
    return mask


def split_heads(x, heads):
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def visible(mask):
    """[batch, 1, time, time]: what a query may see. One that sees nothing sees itself, and `blind` holds it."""
    time = mask.shape[1]
    seen = torch.tensor(mask).bool()[:, None, None, :] & torch.ones(time, time).tril().bool()
    blind = ~seen.any(-1, keepdim=True)
    return seen | (blind & torch.eye(time).bool()), blind


def torch_attention(qkv, mask, heads, scale):
    q, k, v = (split_heads(x, heads) for x in qkv.chunk(3, -1))
    seen, blind = visible(mask)
    out = functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale)
    return (out * ~blind).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_attention_is_torchs_and_a_blind_query_yields_zeros(way, rng, shape, kind):
    batch, heads, time, dim = shape
    mask, scale = make_mask(kind, batch, time), rng.uniform(0.3, 1.5)
    qkv, dy = normal(rng, batch, time, 3 * heads * dim), normal(rng, batch, time, heads * dim)
    found = ours(lambda x: attention(x, jt.array(mask), heads, scale), [qkv], dy)
    assert_close(found, torchs(lambda x: torch_attention(x, mask, heads, scale), [qkv], dy))
    blind = np.cumsum(mask, axis=1) == 0
    assert not found[0][blind].any()


@pytest.mark.parametrize("new", [1, 2, 65])
def test_attention_over_a_cache_is_the_end_of_attention_over_everything(way, rng, new):
    batch, heads, time, dim = 2, 3, 71, 5
    mask = make_mask("left", batch, time)
    mask[0, time // 2] = 0
    qkv = normal(rng, batch, time, 3 * heads * dim)
    q, k, v = (jt.array(np.ascontiguousarray(x)) for x in np.split(qkv, 3, axis=-1))
    found = cached_attention(q[:, -new:], k, v, jt.array(mask), heads, 0.4).numpy()
    expected = torch_attention(torch.tensor(qkv).double(), mask, heads, 0.4).numpy()
    assert_close([found], [expected[:, -new:]])


# --- attention's dropout

P = 0.3


def attention_factors(rng, batch, heads, time):
    """What the dropout of attention multiplies each weight by, read off its output: [batch, heads, time, time].

    Queries and keys of zeros make row i of the weights 1 / (i + 1); values of the identity bring them out.
    """
    qkv = np.zeros((batch, time, 3, heads, time), np.float32)
    qkv[:, :, 2] = np.eye(time)[:, None]
    out = attention(jt.array(qkv.reshape(batch, time, -1)), jt.ones((batch, time), "int32"), heads, 1.0, P).numpy()
    weights = out.reshape(batch, time, heads, time).transpose(0, 2, 1, 3)
    return weights * np.arange(1, time + 1)[:, None]


def test_fused_and_composed_attention_drop_the_same_weights(rng):
    seed = int(rng.integers(2**32))
    seeds.restart(seed, 3)
    fast = attention_factors(rng, 2, 3, 67)
    seeds.restart(seed, 3)
    with fused.composed_only():
        assert_close([attention_factors(rng, 2, 3, 67)], [fast])


def test_attention_drops_weights_as_often_as_asked_and_keeps_their_expectation(rng):
    seeds.restart(int(rng.integers(2**32)), 0)
    factors = attention_factors(rng, 2, 3, 131)[..., np.tri(131, dtype=bool)]
    deviation = np.sqrt(P * (1 - P) / factors.size)
    assert np.all((np.abs(factors) < TOLERANCE) | (np.abs(factors - 1 / (1 - P)) < TOLERANCE))
    assert abs((factors > 0.5).mean() - (1 - P)) < SIGMAS * deviation
    assert abs(factors.mean() - 1) < SIGMAS * deviation / (1 - P)


def test_attention_with_dropout_is_torchs_with_the_very_same_mask(way, rng):
    batch, heads, time, dim, scale = 2, 3, 67, 5, 0.6
    step = int(rng.integers(1000))
    mask = make_mask("left", batch, time)
    qkv, dy = normal(rng, batch, time, 3 * heads * dim), normal(rng, batch, time, heads * dim)
    seeds.restart(1, step)
    factors = torch.tensor(attention_factors(rng, batch, heads, time)).double()

    def reference(qkv):
        q, k, v = (split_heads(x, heads) for x in qkv.chunk(3, -1))
        seen, blind = visible(mask)
        weights = (q @ k.transpose(2, 3) * scale).masked_fill(~seen, -torch.inf).softmax(-1)
        return (weights * ~blind * factors @ v).transpose(1, 2).flatten(2)

    seeds.restart(1, step)
    found = ours(lambda x: attention(x, jt.array(mask), heads, scale, P), [qkv], dy)
    assert_close(found, torchs(reference, [qkv], dy))


# --- dropout


def test_fused_and_composed_dropout_agree_in_every_bit(rng):
    x, seed = normal(rng, 3, 7, 131), int(rng.integers(2**32))
    seeds.restart(seed, 0)
    fast = dropout(jt.array(x), P).numpy()
    seeds.restart(seed, 0)
    with fused.composed_only():
        np.testing.assert_array_equal(dropout(jt.array(x), P).numpy(), fast)


def test_dropout_of_zero_is_the_identity_and_draws_no_seed():
    x = jt.ones((3, 5))
    seeds.restart(0, 0)
    expected = seeds.next()
    seeds.restart(0, 0)
    assert dropout(x, 0.0) is x
    assert seeds.next() == expected


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9])
def test_dropout_drops_as_often_as_asked_and_neighbours_independently(rng, p):
    seeds.restart(int(rng.integers(2**32)), 0)
    kept = dropout(jt.ones((301, 997)), p).numpy() > 0
    for sample, chance in (
        (kept, 1 - p),
        (kept[:, 1:] & kept[:, :-1], (1 - p) ** 2),
        (kept[1:] & kept[:-1], (1 - p) ** 2),
    ):
        # pairs overlap, which makes their count vary up to √3 times as much as that of independent ones
        assert abs(sample.mean() - chance) < SIGMAS * np.sqrt(3 * chance * (1 - chance) / sample.size)


def test_the_gradient_of_dropout_is_torchs_with_the_very_same_mask(way, rng):
    x, dy, step = normal(rng, 5, 67), normal(rng, 5, 67), int(rng.integers(1000))
    seeds.restart(1, step)
    factors = torch.tensor(dropout(jt.ones((5, 67)), P).numpy()).double()
    seeds.restart(1, step)
    found = ours(lambda x: dropout(x, P), [x], dy)
    assert_close(found, torchs(lambda x: x * factors, [x], dy))
    assert set(np.unique(factors)) == {0, np.float32(1 / (1 - P))}


def test_a_run_step_and_process_give_the_same_masks_again_and_others_give_others(rng):
    x, seed = jt.ones((11, 31)), int(rng.integers(2**32))

    def masks(seed, step, rank=0):
        seeds.restart(seed, step, rank)
        return [dropout(x, 0.5).numpy() for _ in range(2)]

    first, second = masks(seed, 7)
    again = masks(seed, 7)
    np.testing.assert_array_equal([first, second], again)
    for other in (second, *masks(seed, 8), *masks(seed + 1, 7), *masks(seed, 7, 1)):
        assert (first != other).mean() > 0.25  # two independent masks differ in a half


def test_a_dropped_sum_is_the_sum_with_what_dropout_leaves(way, rng):
    x, y, dz = normal(rng, 3, 7, 31), normal(rng, 3, 7, 31), normal(rng, 3, 7, 31)
    seed = int(rng.integers(2**32))
    seeds.restart(seed, 1)
    kept = dropout(jt.ones(y.shape), P).numpy()
    seeds.restart(seed, 1)
    found = ours(lambda x, y: add_dropped(x, y, P), [x, y], dz)
    assert_close(found, [x + y * kept, dz, dz * kept], 1e-6)


def test_a_dropped_sum_without_dropout_draws_no_seed(way):
    seeds.restart(0, 0)
    expected = seeds.next()
    seeds.restart(0, 0)
    np.testing.assert_array_equal(add_dropped(jt.ones((2, 3)), jt.ones((2, 3)), 0.0).numpy(), np.full((2, 3), 2))
    assert seeds.next() == expected


# --- the kernels' exp


def test_the_kernels_exp_is_exp_where_a_float_can_hold_it_and_0_far_below(rng):
    inside = np.concatenate([rng.uniform(-87, 88, 10_000), np.arange(-87, 89)]).astype(np.float32)
    x = np.concatenate([inside, np.array([-87.5, -1e4, -1e30], np.float32)])
    (y,) = fused.run(
        ["exp"],
        "for (long i = 0; i < in0_shape0; i++) out0_p[i] = vector_exp(in0_p[i]);",
        [x.shape],
        [jt.array(x)],
    )
    expected = np.exp(inside.astype(np.float64))
    # without fused multiply-add, n ln 2 rounds at 4e-6 where n is 126
    assert np.abs(y.numpy()[: len(inside)] / expected - 1).max() < 5e-6
    np.testing.assert_array_equal(y.numpy()[len(inside) :], 0)
