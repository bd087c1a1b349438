"""Products in float16 and bfloat16, as CUDA computes them, on the CPU: each beside torch's."""

import numpy as np
import pytest
import torch
from halves import EPSILON, HALVES, TORCH, relative
from operators import assert_close, normal

from gpt2_jittor.ops import fused
from gpt2_jittor.ops.matmul import matmul, products_in, to_compute_dtype, to_half
from gpt2_jittor.runtime.backend import jt


@pytest.fixture(params=HALVES)
def half(request):
    return request.param


@pytest.fixture(autouse=True)
def composed():
    with fused.composed_only():  # what CUDA runs
        yield


def special() -> np.ndarray:
    """Ties, the ends of the ranges, numbers below them."""
    tie16, tie8 = 2.0**-11, 2.0**-8
    return np.array(
        [1 + tie16, 1 + 3 * tie16, 1 + tie8, 1 + 3 * tie8, -1 - tie8, 65519.0, 3e-8, 2.9e-8, 6e-8, 0.0, 1 / 3],
        np.float32,
    )


def test_numbers_are_rounded_to_the_nearest_as_torch_does(rng, half):
    x = np.concatenate([special(), normal(rng, 1000), normal(rng, 1000, scale=1e-5), normal(rng, 99, scale=1e3)])
    expected = torch.tensor(x).to(TORCH[half])
    with products_in(half):
        found = to_compute_dtype(jt.array(x))
    for var in (found, to_half(x, half)):
        assert str(var.dtype) == str(TORCH[half]).removeprefix("torch.")
        np.testing.assert_array_equal(var.float32().numpy(), expected.float().numpy())


def test_what_is_beyond_a_half_type_is_infinite_and_nan_stays_nan(half):
    x = np.array([70000.0, -70000.0, np.inf, -np.inf, np.nan], np.float32)
    with products_in(half):
        found = to_compute_dtype(jt.array(x)).float32().numpy()
    np.testing.assert_array_equal(found, torch.tensor(x).to(TORCH[half]).float().numpy())


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("leading", [(), (2, 3)])
def test_a_product_and_its_gradients_are_exact_sums_rounded_where_torch_rounds(rng, half, leading, transposed):
    a = normal(rng, *leading, 5, 67)
    b = normal(rng, *leading, *((7, 67) if transposed else (67, 7)))
    dy = normal(rng, *leading, 5, 7)
    ours = [jt.array(a), jt.array(b)]
    with products_in(half):
        y = matmul(*ours, transposed)
    found = [y, *jt.grad((y * jt.array(dy)).sum(), ours)]
    theirs = [torch.tensor(x).to(TORCH[half]).double().requires_grad_() for x in (a, b)]
    expected = theirs[0] @ (theirs[1].transpose(-1, -2) if transposed else theirs[1])
    expected.backward(torch.tensor(dy).to(TORCH[half]).double())
    for var, right in zip(found, (expected, *(x.grad for x in theirs)), strict=True):
        assert var.dtype == "float32"
        value = right.detach().to(TORCH[half]).float().numpy()
        # a sum of 67 terms in float32 is off by 1e-5 at most, and may then be rounded to the other side
        np.testing.assert_allclose(var.numpy(), value, rtol=EPSILON[half], atol=1e-5)
        assert (var.numpy() == value).mean() > 0.9


def test_without_a_half_type_a_product_is_float32(rng):
    a, b = normal(rng, 5, 67), normal(rng, 67, 7)
    exact = a.astype(np.float64) @ b
    assert_close([matmul(jt.array(a), jt.array(b)).numpy()], [exact])
    assert_close([matmul(jt.array(a), jt.array(b.T.copy()), transposed=True).numpy()], [exact])
    with products_in("bf16"):
        assert relative(matmul(jt.array(a), jt.array(b)).numpy(), exact) > 1e-4


def test_jittors_own_switches_which_change_float32_stay_off():
    with products_in("fp16"):
        matmul(jt.ones((2, 3)), jt.ones((3, 2))).sync()
    assert (jt.flags.use_tensorcore, jt.flags.auto_mixed_precision_level, jt.flags.amp_reg) == (0, 0, 0)
