"""Sampling against transformers' own logits processors, and draws against the softmax they come from."""

import functools

import numpy as np
import pytest
import torch
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from generation.sampling import (
    add_bias,
    ban_repeated_ngrams,
    draw,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    log_softmax,
    make_sampler,
    penalize_frequency,
    penalize_repetition,
    scale_by_temperature,
)
from generation.token import described

pytestmark = pytest.mark.filterwarnings("error")  # nothing here may leave numpy's warnings on a terminal

GPT2_VOCAB = 50257
INF = np.inf


def random_logits(seed, batch=3, vocab=1009, scale=4.0):
    return (np.random.default_rng(seed).standard_normal((batch, vocab)) * scale).astype(np.float32)


def tied_logits(seed, batch=3, vocab=211):
    return np.random.default_rng(seed).integers(-4, 5, (batch, vocab)).astype(np.float32)


def odd_logits():
    """Rows with -inf, signed zeros, the ends of float32 and denormals; one is constant."""
    return np.array(
        [
            [-INF, 2.0, -INF, 0.0, -0.0, 1.0, -1.0],
            [3e38, -3e38, 1e-45, -1e-45, 0.0, 3e38, 1.0],
            [-50.0] * 7,
            [-INF, -INF, -INF, -INF, -INF, -INF, -7.0],
        ],
        dtype=np.float32,
    )


def reference(processor, logits, ids=None):
    ids = torch.zeros((len(logits), 1), dtype=torch.long) if ids is None else torch.from_numpy(ids)
    return processor(ids, torch.from_numpy(logits.copy())).numpy()


@pytest.fixture
def stable_sort(monkeypatch):
    """Makes the processors' torch.sort stable: which of equal logits goes first is undefined otherwise."""
    monkeypatch.setattr(torch, "sort", functools.partial(torch.sort, stable=True))


KINDS = {
    "random": random_logits(1),
    "tied": tied_logits(2),
    "odd": odd_logits(),
    "one wide": random_logits(3, 1, 1),
}
every_kind = pytest.mark.parametrize("logits", KINDS.values(), ids=KINDS.keys())


@every_kind
@pytest.mark.parametrize("penalty", [0.7, 1.3, 5.0])
def test_the_repetition_penalty_equals_transformers(logits, penalty):
    ids = np.random.default_rng(4).integers(0, logits.shape[1], (len(logits), 9))  # with repeats
    expected = reference(RepetitionPenaltyLogitsProcessor(penalty), logits, ids)
    np.testing.assert_array_equal(penalize_repetition(logits, list(ids), penalty), expected)


def test_the_repetition_penalty_takes_rows_of_different_lengths():
    logits = random_logits(5)
    rows = [np.array([3, 3, 8]), np.array([], dtype=np.int64), np.arange(100)]
    got = penalize_repetition(logits, rows, 1.7)
    for i, row in enumerate(rows):
        alone = reference(RepetitionPenaltyLogitsProcessor(1.7), logits[i : i + 1], row[None])
        np.testing.assert_array_equal(got[i : i + 1], alone)


@every_kind
@pytest.mark.parametrize("temperature", [0.1, 0.7, 1.9])
def test_the_temperature_equals_transformers(logits, temperature):
    expected = reference(TemperatureLogitsWarper(temperature), logits)
    np.testing.assert_array_equal(scale_by_temperature(logits, temperature), expected)


@every_kind
@pytest.mark.parametrize("k", [1, 2, 5, 40, 10**6])
def test_top_k_equals_transformers_ties_included(logits, k):
    np.testing.assert_array_equal(keep_top_k(logits, k), reference(TopKLogitsWarper(k), logits))


@every_kind
@pytest.mark.parametrize("p", [0.0, 1e-6, 0.1, 0.25, 0.5, 0.9, 0.999])
def test_top_p_equals_transformers_ties_included(logits, p, stable_sort):
    np.testing.assert_array_equal(keep_top_p(logits, p), reference(TopPLogitsWarper(p), logits))


@pytest.mark.parametrize("equal_ids", [2, 4, 5, 10, 16, 100])
def test_top_p_falls_as_in_transformers_where_probabilities_meet_p_exactly(equal_ids, stable_sort):
    logits = np.zeros((1, equal_ids), dtype=np.float32)
    for p in np.arange(1, equal_ids) / equal_ids:
        np.testing.assert_array_equal(keep_top_p(logits, p), reference(TopPLogitsWarper(p), logits))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 0.95])
def test_top_p_keeps_transformers_nucleus_over_gpt2s_vocabulary(p):
    logits = random_logits(6, batch=4, vocab=GPT2_VOCAB, scale=3.0)
    kept = np.isfinite(keep_top_p(logits, p)).sum(axis=1)
    expected = np.isfinite(reference(TopPLogitsWarper(p), logits)).sum(axis=1)
    # The two exponentials differ in the last bit, so a border in a sum over 50,257 may move by one id.
    assert np.abs(kept - expected).max() <= 1


@every_kind
@pytest.mark.parametrize("p", [0.0, 1e-6, 0.05, 0.3, 0.999, 1.0])
def test_min_p_equals_transformers(logits, p):
    np.testing.assert_array_equal(keep_min_p(logits, p), reference(MinPLogitsWarper(p), logits))


@every_kind
@pytest.mark.parametrize("size", [1, 2, 3, 9, 10])
def test_repeated_ngrams_are_banned_as_in_transformers(logits, size):
    few = min(3, logits.shape[1])  # few different ids, so that they come again
    ids = np.random.default_rng(18).integers(0, few, (len(logits), 9))
    expected = reference(NoRepeatNGramLogitsProcessor(size), logits, ids)
    np.testing.assert_array_equal(ban_repeated_ngrams(logits, list(ids), size), expected)


def test_repeated_ngrams_are_banned_by_hand():
    logits = np.zeros((4, 5), np.float32)
    rows = [[1, 2, 3, 1, 2], [1, 2, 4, 1, 2, 0, 1, 2], [2], []]
    banned = [np.flatnonzero(row == -INF).tolist() for row in ban_repeated_ngrams(logits, rows, 3)]
    assert banned == [[3], [0, 4], [], []]
    banned = [np.flatnonzero(row == -INF).tolist() for row in ban_repeated_ngrams(logits, rows, 1)]
    assert banned == [[1, 2, 3], [0, 1, 2, 4], [2], []]


@every_kind
def test_log_softmax_equals_torch(logits):
    expected = torch.from_numpy(logits).log_softmax(-1).numpy()
    np.testing.assert_allclose(log_softmax(logits), expected, rtol=1e-6, atol=1e-6)  # the exponentials' last bits
    ids = expected.argmin(axis=-1)
    chosen = [described(int(token), row, 0).log_prob for token, row in zip(ids, logits, strict=True)]
    np.testing.assert_allclose(chosen, expected[np.arange(len(ids)), ids], rtol=1e-6, atol=1e-6)


def test_the_whole_chain_runs_in_transformers_order():
    logits = random_logits(7, batch=2, vocab=64, scale=2.0)
    ids = np.random.default_rng(8).integers(0, 64, (2, 20))
    chain = LogitsProcessorList(
        [
            RepetitionPenaltyLogitsProcessor(1.4),
            NoRepeatNGramLogitsProcessor(1),
            TemperatureLogitsWarper(0.6),
            TopKLogitsWarper(12),
            TopPLogitsWarper(0.8),
            MinPLogitsWarper(0.2),
        ]
    )
    expected = draw(reference(chain, logits, ids).repeat(200, axis=0), np.random.default_rng(9))
    options = {"temperature": 0.6, "top_k": 12, "top_p": 0.8, "min_p": 0.2}
    sampler = make_sampler(**options, repetition_penalty=1.4, no_repeat_ngram_size=1, seed=9)
    got = sampler(logits.repeat(200, axis=0), list(ids.repeat(200, axis=0)))
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("options", [{"greedy": True}, {"temperature": 0}, {"greedy": True, "temperature": 2.0}])
def test_greedy_and_temperature_zero_take_the_most_probable_id(options):
    logits = random_logits(10)
    got = make_sampler(**options, top_k=3, top_p=0.5)(logits, [[]] * 3)
    np.testing.assert_array_equal(got, torch.from_numpy(logits).argmax(-1).numpy())


def test_greedy_still_heeds_the_repetition_penalty():
    logits = np.array([[5.0, 4.0, -1.0]], dtype=np.float32)
    sampler = make_sampler(greedy=True, repetition_penalty=2.0)
    assert sampler(logits, [np.array([0])]).tolist() == [1]


def test_greedy_still_heeds_repeated_ngrams():
    logits = np.array([[5.0, 4.0, -1.0]], dtype=np.float32)
    sampler = make_sampler(greedy=True, no_repeat_ngram_size=2)
    assert sampler(logits, [np.array([2, 0, 1, 2])]).tolist() == [1]


def test_ids_are_int64_one_a_row_and_the_logits_stay_as_they_were():
    logits = random_logits(11)
    before = logits.copy()
    ids = make_sampler(temperature=0.5, top_k=5, top_p=0.9, repetition_penalty=1.2, seed=0)(logits, [[1], [], [2, 3]])
    assert ids.dtype == np.int64
    assert ids.shape == (3,)
    np.testing.assert_array_equal(logits, before)


def test_the_same_seed_draws_the_same_ids_and_another_seed_others():
    logits = random_logits(12, batch=50)
    draws = [make_sampler(seed=seed)(logits, [[]] * 50).tolist() for seed in (13, 13, 14)]
    assert draws[0] == draws[1]
    assert draws[0] != draws[2]


@pytest.mark.parametrize("options", [{}, {"temperature": 1.6}, {"top_k": 5}, {"top_p": 0.7}, {"min_p": 0.3}])
def test_draw_frequencies_match_the_softmax(options):
    logits = random_logits(15, batch=1, vocab=12, scale=1.5)
    warpers = {
        "temperature": TemperatureLogitsWarper,
        "top_k": TopKLogitsWarper,
        "top_p": TopPLogitsWarper,
        "min_p": MinPLogitsWarper,
    }
    warped = logits
    for name, value in options.items():
        warped = reference(warpers[name](value), warped)
    expected = torch.from_numpy(warped).softmax(-1).numpy()[0]

    draws = 40_000
    ids = make_sampler(**options, seed=16)(logits.repeat(draws, axis=0), [[]] * draws)
    counts = np.bincount(ids, minlength=12)
    assert (counts[expected == 0] == 0).all()
    possible = expected > 0
    chi_square = ((counts - draws * expected)[possible] ** 2 / (draws * expected[possible])).sum()
    assert chi_square < 31.3  # the 99.9 % point for 11 degrees of freedom; the seed is fixed


def test_rows_of_one_batch_are_drawn_independently():
    ids = make_sampler(seed=17)(np.zeros((4000, 2), dtype=np.float32), [[]] * 4000)
    both = ids[0::2] * 2 + ids[1::2]
    assert (np.abs(np.bincount(both, minlength=4) / 2000 - 0.25) < 0.04).all()  # 4 standard deviations


def test_the_last_uniform_number_below_one_draws_an_id_with_a_probability():
    class Ending:
        def random(self, count):
            return np.full(count, np.nextafter(1.0, 0.0))

    logits = np.array([[1.0, 0.3, 0.7, -3e38, -INF]], dtype=np.float32)
    assert draw(logits, Ending()).tolist() == [2]


def test_the_two_penalties_of_openais_formula_count_what_was_generated(seed):
    """logit - count * frequency - (count > 0) * presence, spelled out id by id."""
    rng = np.random.default_rng(seed)
    logits, start = random_logits(seed), 5
    ids = [rng.integers(0, 30, size) for size in (9, 5, 24)]  # the second has generated nothing
    expected = logits.copy()
    for row, seen in enumerate(ids):
        generated = seen[start:].tolist()
        for token in range(logits.shape[1]):
            count = generated.count(token)
            expected[row, token] -= count * 0.7 + (count > 0) * -1.2
    before = logits.copy()
    found = penalize_frequency(logits, ids, 0.7, -1.2, start)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_array_equal(found[1], logits[1])
    np.testing.assert_array_equal(logits, before)


def test_a_bias_is_added_to_its_ids_in_every_row(seed):
    logits = random_logits(seed)
    found = add_bias(logits, np.array([3, 1008]), np.array([-100, 2.5], np.float32))
    changed = found - logits
    np.testing.assert_allclose(changed[:, [3, 1008]], [[-100, 2.5]] * 3, atol=1e-4)
    assert np.count_nonzero(changed) == 6 and found.dtype == np.float32


def test_texts_of_one_seed_draw_by_numbers_of_their_own_the_first_by_the_seeds():
    samplers = [make_sampler(seed=5, number=number) for number in (0, 1, 2, 1)]
    drawn = [[sampler.uniform() for _ in range(4)] for sampler in samplers]
    np.testing.assert_array_equal(drawn[0], np.random.default_rng(5).random(4))
    np.testing.assert_array_equal(drawn[1], drawn[3])
    assert len({tuple(numbers) for numbers in drawn}) == 3
    assert drawn[1][0] != make_sampler(seed=6).uniform()  # a next seed is no shift of this one
