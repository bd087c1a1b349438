"""CUDA's kernels on the emulated device, where they differ from the CPU's: sizes, blocks, and when they run.

The other tests of operators, and tests/training/test_parts.py, run each with them as well (`way`: "cuda").
"""

from types import SimpleNamespace
from unittest import mock

import cuda_kernels
import numpy as np
import pytest
import torch
from operators import assert_close, normal, ours, torchs
from torch.nn import functional

from gpt2_jittor.ops import fused, head_loss_blocks
from gpt2_jittor.ops.activation import gelu_new
from gpt2_jittor.ops.attention import WIDEST_ON_CUDA, attention
from gpt2_jittor.ops.dropout import add_dropped, dropout, seeds
from gpt2_jittor.ops.head_loss import head_loss
from gpt2_jittor.ops.layer_norm import layer_norm
from gpt2_jittor.runtime.backend import jt

pytestmark = cuda_kernels.NEEDS_EMULATOR
SIZES = [1, 3, 4, 31, 33, 257, 768, 1000]  # below, at and beyond a vector, a warp, a block
P = 0.3


@pytest.fixture
def called():
    """Runs CUDA's kernels, and notes which."""
    names = []

    def noted(kernels, *arguments, **numbers):
        names.append(kernels[-1])
        return cuda_kernels.emulated_run(kernels, *arguments, **numbers)

    with cuda_kernels.turned_on(), mock.patch.object(fused, "run", noted):
        yield names


def test_on_cuda_a_kernel_runs_where_it_has_proved_itself_and_nowhere_else(monkeypatch):
    monkeypatch.setattr(fused, "jt", SimpleNamespace(flags=SimpleNamespace(use_cuda=1)))
    asked = []
    monkeypatch.setattr(fused.verdicts, "proved", lambda kernel: asked.append(kernel) or kernel == "good")
    assert fused.enabled("good") and fused.products_on_cuda("good") and not fused.enabled("bad")
    assert not fused.enabled_on_cpu() and not fused.products()
    with fused.composed_only():
        assert not fused.enabled("good")
    with fused.cuda_kernels():
        assert fused.enabled("bad")
    assert not fused.enabled("bad") and set(asked) == {"good", "bad"}


def test_kernels_that_were_turned_off_are_not_even_checked(monkeypatch):
    monkeypatch.setattr(fused, "jt", SimpleNamespace(flags=SimpleNamespace(use_cuda=1)))
    monkeypatch.setattr(fused, "_cuda_kernels", False)
    monkeypatch.setattr(fused.verdicts, "proved", lambda kernel: pytest.fail(f"{kernel} was checked"))
    assert not fused.enabled("layer_norm") and not fused.products_on_cuda("attention")


@pytest.mark.parametrize("size", SIZES)
def test_gelu_new_is_torchs_for_every_size(called, rng, size):
    x, dy = normal(rng, size, scale=3), normal(rng, size)
    found = ours(gelu_new, [x], dy)
    assert_close(found, torchs(lambda x: functional.gelu(x, approximate="tanh"), [x], dy))
    assert set(called) == {"gelu_new"}


def test_what_is_not_a_number_stays_so(called):
    x = np.array([np.nan, 1, np.nan, 2, 3, np.nan], np.float32)
    np.testing.assert_array_equal(np.isnan(gelu_new(jt.array(x)).numpy()), np.isnan(x))
    hidden, weight = np.full((1, 4), np.nan, np.float32), np.ones((7, 4), np.float32)
    assert np.isnan(head_loss(jt.array(hidden), jt.array(weight), jt.array([3])).numpy())


@pytest.mark.parametrize("size", SIZES)
def test_cuda_drops_what_the_cpu_drops_in_every_bit(rng, size):
    x, y, seed = normal(rng, size), normal(rng, size), int(rng.integers(2**32))

    def both():
        seeds.restart(seed, 0)
        # of zeros: the CPU adds with a single rounding
        return dropout(jt.array(x), P).numpy(), add_dropped(jt.zeros(size), jt.array(y), P).numpy()

    on_cpu = both()
    with cuda_kernels.turned_on():
        np.testing.assert_array_equal(both(), on_cpu)


def test_attention_drops_on_cuda_what_it_drops_on_the_cpu(rng):
    qkv, mask, seed = normal(rng, 2, 70, 3 * 2 * 8), jt.ones((2, 70), "int32"), int(rng.integers(2**32))

    def dropped():
        seeds.restart(seed, 0)
        return attention(jt.array(qkv), mask, 2, 0.5, P).numpy()

    on_cpu = dropped()
    with cuda_kernels.turned_on():
        assert_close([dropped()], [on_cpu])


# rows of 12,288 floats, and pairs of 6,144, are the longest that shared memory holds; sums over rows have parts of 64
@pytest.mark.parametrize(
    "shape", [(1, 1), (3, 31), (5, 33), (33, 257), (3, 768), (7, 1000), (200, 12), (2, 6148), (2, 12292)]
)
def test_layer_norm_is_torchs_for_every_width(called, rng, shape):
    rows, width = shape
    x, weight, bias, dy = normal(rng, rows, width) + 3, *normal(rng, 2, width), normal(rng, rows, width)
    found = ours(lambda *args: layer_norm(*args, 1e-5), [x, weight, bias], dy)
    expected = torchs(lambda x, w, b: functional.layer_norm(x, (width,), w, b, 1e-5), [x, weight, bias], dy)
    assert_close(found, expected, 5e-4 if width == 1 else 2e-5)  # tests/ops/test_ops.py says why
    assert set(called) == {"layer_norm"}


def torch_attention(qkv, heads, scale):
    q, k, v = (x.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in qkv.chunk(3, -1))
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("dim", [4, 31, 64, 68, WIDEST_ON_CUDA, WIDEST_ON_CUDA + 1])
def test_attention_is_torchs_for_every_width_of_a_head(called, rng, dim):
    qkv, dy = normal(rng, 1, 67, 3 * 2 * dim), normal(rng, 1, 67, 2 * dim)
    found = ours(lambda x: attention(x, jt.ones((1, 67), "int32"), 2, dim**-0.5), [qkv], dy)
    assert_close(found, torchs(lambda x: torch_attention(x, 2, dim**-0.5), [qkv], dy), 2e-5)
    assert bool(called) == (dim <= WIDEST_ON_CUDA)  # wider ones run composed


@pytest.mark.parametrize("rows_at_once", [1, 3, 7, 100])
def test_the_head_may_be_computed_for_any_number_of_rows_at_once(called, rng, monkeypatch, rows_at_once):
    monkeypatch.setattr(head_loss_blocks, "AT_ONCE", rows_at_once * 33 + 5)
    hidden, weight, dloss = normal(rng, 7, 12), normal(rng, 33, 12), normal(rng, 7)
    targets = rng.integers(0, 33, 7).astype(np.int32)
    found = ours(lambda h, w: head_loss(h, w, jt.array(targets)), [hidden, weight], dloss)

    def theirs(h, w):
        return functional.cross_entropy(h @ w.T, torch.tensor(targets).long(), reduction="none")

    assert_close(found, torchs(theirs, [hidden, weight], dloss), 2e-5)
    blocks = -(-7 // rows_at_once)
    assert called.count("cross_entropy") == 2 * blocks and called.count("sum_of_two") == blocks - 1
