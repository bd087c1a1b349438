"""Tokens that kernels choose, CUDA's on an emulated device, beside the definitions in numpy: generation/sampling.py."""

import contextlib

import cuda_kernels
import numpy as np
import pytest

from common.errors import UserError
from generation.sampling import check_drawable, log_softmax, make_sampler
from gpt2_jittor.ops.choose import choice, choose, composed
from gpt2_jittor.runtime.backend import jt

# exp on the device is inexact in the last places, and sums have another order: some 1e-7 of all, in what is cumulated
NEAR = 1e-5
OPTIONS = [
    {},
    {"temperature": 0.7},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 10**6},
    {"top_p": 0.9},
    {"top_p": 0.05},
    {"min_p": 0.03},
    {"temperature": 0.7, "top_p": 0.9},
    {"temperature": 1.4, "top_k": 40, "top_p": 0.8, "min_p": 0.02},
]


def chosen_by(function, logits, choices):
    """Tokens and their log-probabilities, each row's after its own choice."""
    found = function(jt.array(logits), jt.array(np.array(choices, np.float32))).numpy()
    return found[:, 0].astype(int), found[:, 1]


def alike(logits, uniforms, options) -> list:
    """Choices for rows that differ in their numbers alone."""
    return [choice(number, **options) for number in ([None] * len(logits) if uniforms is None else uniforms)]


def on_cpu(logits, uniforms=None, **options):
    return chosen_by(choose, logits, alike(logits, uniforms, options))


def by_kernel(logits, uniforms=None, **options):
    """By CUDA's."""
    with cuda_kernels.turned_on():
        return on_cpu(logits, uniforms, **options)


def by_definition(logits, uniforms=None, **options):
    """The same in plain Jittor."""
    return chosen_by(composed, logits, alike(logits, uniforms, options))


ALL = pytest.mark.parametrize("chosen", [by_definition, on_cpu, by_kernel])
KERNELS = pytest.mark.parametrize("chosen", [on_cpu, by_kernel])


def candidates(logits, **options):
    """The logits after the options' steps: what may not be drawn is -inf."""
    for step in make_sampler(**options).choice.steps():
        logits = step(logits, None)
    return logits


def shifted(options, by):
    """The options with another top_p and min_p: what must be drawn from at least, and at most."""
    moved = {"top_p": min(1, max(0, options.get("top_p", 1) + by)), "min_p": max(0, options.get("min_p", 0) - by)}
    return options | {name: value for name, value in moved.items() if name in options}


def falls_on(scores, uniform, token) -> bool:
    """Whether the token may be drawn by this number, from scores of which those left out are -inf."""
    masses = np.exp(scores.astype(np.float64) - scores.max())
    cumulated = masses.cumsum() / masses.sum()
    before = cumulated[token - 1] if token else 0
    return masses[token] > 0 and before - NEAR <= uniform <= cumulated[token] + NEAR


@pytest.mark.parametrize(
    ("chosen", "vocab"),  # of the kernels below, at and beyond the threads of a block, which are two parts on the CPU
    [(by_definition, 33), *((kernel, vocab) for kernel in (on_cpu, by_kernel) for vocab in (1, 2, 33, 1024, 1500))],
)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_number_draws_the_token_that_it_falls_on_in_the_cumulated_probabilities(chosen, rng, vocab, options):
    logits = (rng.standard_normal((17, vocab)) * 3 - 40).astype(np.float32)
    uniforms = rng.random(17)
    tokens, log_probs = chosen(logits, uniforms, **options)
    several = [candidates(logits, **shifted(options, by)) for by in (0, NEAR, -NEAR)]  # a border may round away
    for row, token in enumerate(tokens):
        assert any(falls_on(scores[row], uniforms[row], token) for scores in several)
    np.testing.assert_allclose(log_probs, log_softmax(logits)[np.arange(len(tokens)), tokens], atol=1e-5)


@ALL
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_what_can_be_drawn_is_what_the_options_leave(chosen, rng, options):
    logits = (rng.standard_normal(9) * 2).astype(np.float32)
    at_most, at_least = (
        {i for i in range(9) if candidates(logits[None], **shifted(options, by))[0, i] > -np.inf}
        for by in (NEAR, -NEAR)
    )
    uniforms = np.arange(40) / 40
    drawn = set(chosen(np.tile(logits, (40, 1)), uniforms, **options)[0].tolist())
    masses = np.exp(candidates(logits[None], **options)[0])
    likely = {i for i in at_least if masses[i] > masses.sum() / 20}
    assert likely <= drawn <= at_most


@KERNELS
def test_greedy_is_the_likeliest_and_of_equals_the_first(chosen, rng):
    """And -inf may be among them, which the composed definition does not know."""
    logits = (rng.standard_normal((5, 1300)) * 3).astype(np.float32)
    logits[1, [700, 7, 1200]] = 99
    logits[2] = 0
    logits[3] = -np.inf
    logits[3, 1299] = -50
    logits[4, :] = -3e38
    logits[4, 640:642] = [-0.0, 0.0]  # equal to floats
    tokens, log_probs = chosen(logits)
    np.testing.assert_array_equal(tokens, make_sampler(greedy=True)(logits, []))
    assert tokens[1:].tolist() == [7, 0, 1299, 640]
    np.testing.assert_allclose(log_probs, log_softmax(logits)[np.arange(len(tokens)), tokens], atol=1e-5)


@ALL
def test_of_logits_that_equal_the_border_top_k_keeps_all_and_top_p_the_last(chosen):
    logits = np.log(np.array([[0.1, 0.1, 0.1, 0.1, 0.2, 0.2, 0.2]], np.float32)).repeat(30, axis=0)
    uniforms = np.arange(30) / 30
    for options, expected in (
        ({"top_k": 1}, {4, 5, 6}),
        ({"top_k": 4}, set(range(7))),
        ({"top_p": 0.35}, {5, 6}),
        ({"top_p": 0.75}, {2, 3, 4, 5, 6}),
        ({"top_p": 0.0}, {6}),
        ({"min_p": 0.75}, {4, 5, 6}),
        ({"top_k": 3, "top_p": 0.5}, {5, 6}),
    ):
        assert set(chosen(logits, uniforms, **options)[0].tolist()) == expected, options
        left = candidates(logits[:1], **options)[0]
        assert set(np.flatnonzero(left > -np.inf).tolist()) == expected, options


@KERNELS
def test_the_ends_of_the_interval_draw_the_first_and_the_last_that_can_be_drawn(chosen, rng):
    logits = rng.standard_normal((2, 1500)).astype(np.float32)
    logits[:, [0, 1, 1498, 1499]] = -np.inf
    tokens, _ = chosen(logits, np.array([0, np.nextafter(1, 0)]))
    assert tokens.tolist() == [2, 1497]


@KERNELS
def test_rows_from_which_nothing_can_be_chosen_give_no_token_and_the_others_theirs(chosen, rng):
    good = rng.standard_normal(40).astype(np.float32)
    bad = np.tile(good, (5, 1))
    for row, value in enumerate((np.nan, np.copysign(np.float32(np.nan), np.float32(-1)), np.inf)):
        bad[row, 3 * row] = value
    bad[3] = -np.inf
    for uniforms in (None, np.full(5, 0.5)):
        tokens, _ = chosen(bad, uniforms, top_p=0.9)
        assert (tokens[:4] == -1).all() and tokens[4] >= 0
    assert chosen(good[None] * 1e3, np.array([0.5]), temperature=1e-38)[0] == -1  # they overflow
    for row in bad[:4]:
        with pytest.raises(UserError, match="no token can be chosen"):
            check_drawable(row[None])


@pytest.mark.parametrize("turned_on", [contextlib.nullcontext, cuda_kernels.turned_on])
def test_each_row_is_chosen_in_its_own_way(turned_on, rng):
    logits = (rng.standard_normal((len(OPTIONS), 700)) * 3).astype(np.float32)
    choices = [choice(), *(choice(number, **way) for number, way in zip(rng.random(9), OPTIONS[1:], strict=True))]
    with turned_on():
        together = chosen_by(choose, logits, choices)
        alone = [chosen_by(choose, logits[i : i + 1], choices[i : i + 1]) for i in range(len(logits))]
    for found, expected in zip(together, zip(*alone, strict=True), strict=True):
        np.testing.assert_array_equal(found, np.concatenate(expected))
