"""Weights that are kept in fewer bits, against plain numpy's definitions of them: products, losses, each gradient."""

import contextlib
import dataclasses

import numpy as np
import pytest
import torch
from operators import assert_close, normal, ours, torchs
from torch.nn import functional

from gpt2_jittor.ops import frozen, frozen_head_loss, fused, int8_instructions
from gpt2_jittor.ops import head_loss as head_loss_of
from gpt2_jittor.ops.activation import gelu_new
from gpt2_jittor.ops.freezing import frozen_weight
from gpt2_jittor.ops.frozen import FrozenWeight
from gpt2_jittor.ops.head_loss import head_loss, logits
from gpt2_jittor.ops.linear import linear
from gpt2_jittor.ops.lora_linear import lora_linear
from gpt2_jittor.runtime import cpu
from gpt2_jittor.runtime.backend import jt

# (rows, in, out): panels have 256 columns or rows
SHAPES = [(1, 1, 1), (5, 37, 3), (7, 300, 515), (1030, 33, 70)]
PRECISIONS = ("int8", "bf16", "fp16")
THRESHOLD = 6.0
# each has operators of its own, which are compiled first; the two types of 16 bits differ in how they become floats
precisions = pytest.mark.parametrize("precision", ["int8", "bf16", pytest.param("fp16", marks=pytest.mark.long)])


@pytest.fixture(params=["kernel", "composed"])
def way(request):
    with fused.composed_only() if request.param == "composed" else contextlib.nullcontext():
        yield request.param


@dataclasses.dataclass
class Kept:
    """What numpy makes of a weight: int8's whole numbers and scales (1 in 16 bits), and the numbers that they mean."""

    values: np.ndarray
    scales: np.ndarray

    @property
    def meant(self) -> np.ndarray:
        return self.values * self.scales


def kept(weight: np.ndarray, precision: str, is_table: bool = False) -> Kept:
    if precision == "int8":
        scales = np.abs(weight).max(axis=1 if is_table else 0, keepdims=True) / np.float32(127)
        return Kept(np.rint(weight / scales).astype(np.float64), scales.astype(np.float64))
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    return Kept(torch.tensor(weight).to(dtype).double().numpy(), np.ones((1, 1)))


def rounded(x: np.ndarray, threshold: float) -> np.ndarray:
    """x as LLM.int8() multiplies it: row by row in int8, but for columns with something above the threshold."""
    outlier = (np.abs(x) > threshold).any(axis=0) if threshold else np.zeros(x.shape[1], bool)
    rest = np.where(outlier, 0, x)
    scale = np.abs(rest).max(axis=1, keepdims=True) / 127
    scale[scale == 0] = 1
    return np.where(outlier, x, np.rint(rest / scale) * scale)


def no_ties(x: np.ndarray, threshold: float = 0.0, factors=1.0) -> np.ndarray:
    """x, of which nothing lies where rounding to int8 could go either way: then float32 and float64 go the same."""
    x = x.astype(np.float64)
    for _ in range(50):
        given = x * factors
        outlier = (np.abs(given) > threshold).any(axis=0) if threshold else np.zeros(x.shape[1], bool)
        scale = np.abs(np.where(outlier, 0, given)).max(axis=1, keepdims=True) / 127
        near = np.abs(np.abs(given / np.where(scale == 0, 1, scale)) % 1 - 0.5) < 1e-3
        if not near.any():
            break
        x = np.where(near, x * 0.99, x)
    assert not near.any()
    return x.astype(np.float32)


def draw(rng, rows, inputs, outputs, precision):
    """An input with outliers in some of its columns, a weight in float32 and as it is kept, the result's gradient."""
    weight = normal(rng, inputs, outputs, scale=0.05)
    x, dy = normal(rng, rows, inputs), normal(rng, rows, outputs)
    x[:, rng.random(inputs) < 0.1] *= 60
    as_kept = kept(weight, precision)
    if precision == "int8":
        x, dy = no_ties(x, THRESHOLD), no_ties(dy, factors=as_kept.scales)
    return x, weight, as_kept, dy


def product(x, as_kept: Kept, precision: str, threshold: float = THRESHOLD) -> np.ndarray:
    return (rounded(x, threshold) if precision == "int8" else x).astype(np.float64) @ as_kept.meant


def by_input(dy, as_kept: Kept, precision: str) -> np.ndarray:
    if precision == "int8":
        return rounded(dy.astype(np.float64) * as_kept.scales, 0) @ as_kept.values.T
    return dy.astype(np.float64) @ as_kept.meant.T


@precisions
@pytest.mark.parametrize("shape", SHAPES)
def test_a_projection_and_its_gradient_are_the_definitions(way, rng, shape, precision):
    x, weight, as_kept, dy = draw(rng, *shape, precision)
    bias = normal(rng, shape[-1])
    given = frozen_weight(weight, precision, is_table=False, threshold=THRESHOLD)
    y, dx, dbias = ours(lambda x, bias: linear(x, given, bias), [x, bias], dy)
    assert_close([y, dx], [product(x, as_kept, precision) + bias, by_input(dy, as_kept, precision)], 2e-6 * 20)
    assert_close([dbias], [dy.astype(np.float64).sum(0)])


@pytest.mark.parametrize("threshold", [0.0, 2.5])
def test_the_threshold_says_which_columns_stay_as_they_are_and_0_that_none_does(way, rng, threshold):
    x, weight = normal(rng, 9, 40), normal(rng, 40, 11)
    x[0, :4] = rng.uniform(3, 9, 4)  # above 2.5, in four columns at least
    x = no_ties(x, threshold)
    given = frozen_weight(weight, "int8", is_table=False, threshold=threshold)
    expected = product(x, kept(weight, "int8"), "int8", threshold)
    assert_close([linear(jt.array(x), given).numpy()], [expected], 1e-5)
    other = product(x, kept(weight, "int8"), "int8", 2.5 - threshold)
    assert np.abs(other - expected).max() > 1e-3  # so the test sees the difference


def test_rows_of_zeros_are_zeros_and_what_is_not_finite_stays_so(way, rng):
    given = frozen_weight(normal(rng, 20, 7), "int8", is_table=False, threshold=THRESHOLD)
    x = normal(rng, 4, 20)
    x[1] = 0
    assert not linear(jt.array(x), given).numpy()[1].any()
    x[2, 3] = np.nan
    assert np.isnan(linear(jt.array(x), given).numpy()[2]).all()


@precisions
@pytest.mark.parametrize("dora", [False, True])
def test_lora_stands_beside_it_in_float32(way, rng, precision, dora):
    rows, inputs, outputs, r, scaling = 70, 37, 45, 3, 1.7
    x, weight, as_kept, dy = draw(rng, rows, inputs, outputs, precision)
    bias, a, b = normal(rng, outputs), normal(rng, r, inputs), normal(rng, outputs, r)
    factor = rng.uniform(0.5, 2, outputs).astype(np.float32) if dora else np.ones(outputs, np.float32)
    if precision == "int8":
        dy = no_ties(dy, factors=as_kept.scales * factor)
    given = frozen_weight(weight, precision, is_table=False, threshold=THRESHOLD)

    def function(x, bias, a, b, *factor):
        return lora_linear(x, given, bias, a, b, scaling, factor=factor[0] if factor else None)

    inputs = [x, bias, a, b, *([factor] if dora else [])]
    y, dx, dbias, da, db, *_ = ours(function, inputs, dy)
    doubles = [array.astype(np.float64) for array in (x, dy * factor, a, b)]
    x64, g, a64, b64 = doubles
    expected = (product(x, as_kept, precision) + scaling * x64 @ a64.T @ b64.T) * factor + bias
    by_x = by_input(g, as_kept, precision) + scaling * g @ b64 @ a64
    by_a, by_b = scaling * (g @ b64).T @ x64, scaling * g.T @ (x64 @ a64.T)
    assert_close([y, dx, dbias, da, db], [expected, by_x, dy.astype(np.float64).sum(0), by_a, by_b], 5e-5)


def test_an_activation_before_it_is_computed_again_for_the_gradient(way, rng):
    x, weight = normal(rng, 6, 9), normal(rng, 9, 5)
    given, dy = frozen_weight(weight, "bf16", is_table=False), normal(rng, 6, 5)
    found = ours(lambda x: linear(x, given, None, gelu_new), [x], dy)
    meant = torch.tensor(kept(weight, "bf16").meant)
    assert_close(found, torchs(lambda x: functional.gelu(x, approximate="tanh") @ meant, [x], dy))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("replaced", [0, 4])
@precisions
@pytest.mark.parametrize("vocab", [5, 1100])
def test_a_heads_loss_is_torchs_on_what_the_table_means(way, rng, monkeypatch, vocab, precision, replaced, smoothing):
    monkeypatch.setattr(head_loss_of, "multiplies_halves", lambda: False)
    check_head_loss(rng, monkeypatch, vocab, precision, replaced, smoothing, 2e-5)


@pytest.mark.parametrize("replaced", [0, 4])
@pytest.mark.parametrize("vocab", [5, 1100])
def test_an_int8_table_is_multiplied_in_bfloat16_by_processors_that_can(rng, monkeypatch, vocab, replaced):
    monkeypatch.setattr(head_loss_of, "multiplies_halves", lambda: True)
    found = check_head_loss(rng, monkeypatch, vocab, "int8", replaced, 0.0, 2**-8)
    monkeypatch.setattr(head_loss_of, "multiplies_halves", lambda: False)
    exact = check_head_loss(rng, monkeypatch, vocab, "int8", replaced, 0.0, 2e-5)
    assert any((one != other).any() for one, other in zip(found, exact, strict=True))  # it was rounded


def check_head_loss(rng, monkeypatch, vocab, precision, replaced, smoothing, bound) -> list:
    """That the loss and its gradients are torch's; returns them."""
    monkeypatch.setattr(frozen_head_loss, "ROWS", 256)
    # in bfloat16, so that the odds alone are rounded where products are made in that
    hidden, weight = torch.tensor(normal(rng, 31, 12)).bfloat16().float().numpy(), normal(rng, vocab, 12)
    targets, dloss = rng.integers(0, vocab, 31).astype(np.int32), normal(rng, 31)
    tokens = rng.permutation(vocab)[:replaced].astype(np.int32)
    targets[:replaced] = tokens
    table, rows = frozen_weight(weight, precision, is_table=True), normal(rng, replaced, 12)

    def function(hidden, *rows):
        more = [jt.array(tokens), *rows] if rows else [None, None]
        return head_loss(hidden, table, jt.array(targets), *more, smoothing=smoothing)

    def theirs(hidden, *rows):
        whole = torch.tensor(kept(weight, precision, is_table=True).meant)
        if rows:
            whole = whole.index_put((torch.tensor(tokens).long(),), rows[0])
        of = torch.tensor(targets).long()
        return functional.cross_entropy(hidden @ whole.T, of, reduction="none", label_smoothing=smoothing)

    inputs = [hidden, rows] if replaced else [hidden]
    found = ours(function, inputs, dloss)
    assert_close(found, torchs(theirs, inputs, dloss), bound)
    return found


@precisions
def test_a_table_gives_rows_logits_and_their_gradient(way, rng, precision):
    weight, x, dy = normal(rng, 301, 20), normal(rng, 7, 20), normal(rng, 7, 301)
    table, meant = frozen_weight(weight, precision, is_table=True), kept(weight, precision, is_table=True).meant
    assert_close(ours(lambda x: logits(x, table), [x], dy), [x @ meant.T, dy @ meant])
    ids = rng.integers(0, 301, (2, 5)).astype(np.int32)
    assert_close([table[jt.array(ids)].numpy(), table.float32().numpy()], [meant[ids], meant], 1e-6)


def test_small_numbers_of_float16_are_kept(rng):
    weight = np.array([[6e-8, -3e-7, 5.9e-5, 6.2e-5, 0, -65504]], np.float32)
    given = frozen_weight(weight, "fp16", is_table=False)
    found = linear(jt.array(np.array([[1024.0]], np.float32)), given).numpy()
    np.testing.assert_array_equal(found, weight.astype(np.float16).astype(np.float32) * 1024)


def test_a_weight_takes_a_byte_or_two_a_number_and_int8_a_scale_a_column(rng):
    weight = normal(rng, 64, 96)
    sizes = {}
    for precision in PRECISIONS:
        parts = frozen_weight(weight, precision, is_table=False).parts
        sizes[precision] = sum(part.numpy().nbytes if precision != "bf16" else 2 * part.numel() for part in parts)
    assert sizes == {"int8": 64 * 96 + 4 * 96, "bf16": 2 * 64 * 96, "fp16": 2 * 64 * 96}


# --- whole numbers: where the processor has no instructions for them, oneDNN's function saturates unless they are small


def small(rng, inputs, outputs) -> tuple[FrozenWeight, Kept]:
    """A weight whose whole numbers are too small for two products to leave 16 bits: 2 · 255 · 63 < 2¹⁵."""
    values = rng.integers(-63, 64, (inputs, outputs)).astype(np.int8)
    scales = rng.uniform(0.5, 1, (1, outputs)).astype(np.float32) / 1000
    return FrozenWeight(jt.array(values), jt.array(scales), THRESHOLD), Kept(values.astype(np.float64), scales)


@pytest.mark.parametrize("shape", SHAPES)
def test_products_of_whole_numbers_are_the_definitions(rng, monkeypatch, shape):
    monkeypatch.setattr(int8_instructions, "work", lambda: True)
    given, as_kept = small(rng, *shape[1:])
    x = normal(rng, *shape[:2])
    x[:, rng.random(shape[1]) < 0.1] *= 60
    x, dy = no_ties(x, THRESHOLD), no_ties(normal(rng, shape[0], shape[2]), factors=as_kept.scales)
    found = ours(lambda x: linear(x, given), [x], dy)
    assert_close(found, [product(x, as_kept, "int8"), by_input(dy, as_kept, "int8")], 1e-5)


def test_whole_numbers_with_lora_beside_them_add_up(rng, monkeypatch):
    given, _ = small(rng, 33, 21)
    arrays = [normal(rng, *shape) for shape in ((9, 33), (21,), (3, 33), (21, 3))]
    arrays[0], dy = no_ties(arrays[0], THRESHOLD), normal(rng, 9, 21)
    found = []
    for whole in (False, True):
        monkeypatch.setattr(int8_instructions, "work", lambda whole=whole: whole)
        found.append(ours(lambda x, bias, a, b: lora_linear(x, given, bias, a, b, 0.7), arrays, dy))
    assert_close(found[1], found[0], 2e-6 * 10)


def test_what_is_not_finite_stays_so_among_whole_numbers(rng, monkeypatch):
    monkeypatch.setattr(int8_instructions, "work", lambda: True)
    given, _ = small(rng, 20, 7)
    for value in (np.nan, np.inf):
        for threshold in (0.0, THRESHOLD):
            given.threshold = threshold
            x = normal(rng, 4, 20)
            x[2, 3] = value
            assert not np.isfinite(linear(jt.array(x), given).numpy()[2]).any()


def test_int8_instructions_are_used_where_the_processor_has_them_and_the_largest_sums_are_right():
    assert int8_instructions.work() == (bool(cpu.int8_instructions()) and int8_instructions.is_exact())
    if not cpu.int8_instructions():  # the reason for all of this: oneDNN does not refuse
        assert not int8_instructions.is_exact() or not int8_instructions.work()


def test_the_composed_rounding_is_the_definition(rng):
    x = no_ties(normal(rng, 8, 30), 2.0)
    assert_close([frozen.rounded_rows(jt.array(x), 2.0).numpy()], [rounded(x, 2.0)], 1e-6)
