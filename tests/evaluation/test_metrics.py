"""The measures of classes and replies, and intervals, against sacrebleu and values worked by hand."""

import numpy as np
import pytest
import sacrebleu

from evaluation.metrics import (
    accuracy,
    bleu,
    bleu_of,
    bleu_signature,
    bootstrap,
    confusion,
    distinct,
    distinct_interval,
    macro_f1,
    mean_of,
    ratio_of,
)

GOLD = [0, 0, 0, 0, 1, 1, 1, 2, 2]
PREDICTED = [0, 0, 1, 3, 1, 1, 0, 0, 0]


def test_confusion_has_the_true_classes_in_its_rows():
    assert confusion(GOLD, PREDICTED, 4).tolist() == [[2, 1, 0, 1], [1, 2, 0, 0], [2, 0, 0, 0], [0, 0, 0, 0]]


def test_classes_in_few_bits_are_counted_as_any():
    classes = np.arange(100, dtype=np.int8)  # 99 * 100 does not fit in them
    assert confusion(classes, classes, 100).tolist() == np.eye(100).tolist()


def test_accuracy_is_the_share_that_is_right():
    assert accuracy(GOLD, PREDICTED) == pytest.approx(4 / 9)


def test_macro_f1_is_the_classes_mean_and_an_absent_class_counts_as_0():
    # TP, FP, FN: class 0: 2, 3, 2; 1: 2, 1, 1; 2: 0, 0, 2; 3: 0, 1, 0; 4: never there
    by_class = [4 / 9, 4 / 6, 0, 0, 0]
    assert macro_f1(GOLD, PREDICTED, 4) == pytest.approx(sum(by_class) / 4)
    assert macro_f1(GOLD, PREDICTED, 5) == pytest.approx(sum(by_class) / 5)


@pytest.mark.parametrize(("gold", "guessed"), [([0, 4], [0, 0]), ([0, 1], [0, -1]), ([0, 1], [0]), ([], [])])
def test_classes_that_cannot_be_are_refused(gold, guessed):
    with pytest.raises(ValueError, match=r"classes go from 0 to 3|as many of both"):
        confusion(gold, guessed, 4)


def test_distinct_n_counts_over_all_replies_without_regard_to_case():
    replies = ["I do not know.", "i do not care", "", "Know"]  # 5, 4, 0 and 1 tokens of 13a; 4, 3 pairs
    assert distinct(replies, 1) == 6 / 10  # i do not know . care
    assert distinct(replies, 2) == 5 / 7  # "i do" and "do not" twice
    assert distinct(replies, 4) == 3 / 3
    assert distinct(replies, 6) == distinct([], 1) == distinct(["", " "], 2) == 0.0


def test_distinct_intervals_are_those_of_leaving_out_each_text(rng):
    words = ["a", "b", "c", "d", "e", "f g", "h i"]
    texts = [" ".join(rng.choice(words, size=rng.integers(0, 6))) for _ in range(30)]
    for n in (1, 2):
        without = np.array([distinct(texts[:i] + texts[i + 1 :], n) for i in range(30)])
        error = np.sqrt(29 / 30 * ((without - without.mean()) ** 2).sum())
        ends = np.clip([distinct(texts, n) - 1.96 * error, distinct(texts, n) + 1.96 * error], 0, 1)
        assert distinct_interval(texts, n) == pytest.approx(tuple(ends), abs=1e-12)


def test_texts_that_share_nothing_are_wholly_distinct_without_doubt_and_one_text_says_nothing():
    assert distinct_interval([f"x{i} y{i}" for i in range(50)], 1) == (1.0, 1.0)
    assert distinct_interval(["a b c"], 1) == distinct_interval([], 1) == (0.0, 1.0)


def made_up_replies(rng, count):
    words = ["I", "you", "do", "not", "know", "the", "way", ",", "go", "home", ".", "What", "?", "Yes"]
    references = [" ".join(rng.choice(words, size=rng.integers(1, 15))) for _ in range(count)]
    replies = [
        reference if rng.random() < 0.3 else " ".join(rng.choice([*reference.split(), *words], size=9))
        for reference in references
    ]
    replies[0] = ""
    return replies, references


def test_bleu_is_sacrebleus_of_the_whole_and_of_every_resample(rng):
    replies, references = made_up_replies(rng, 60)
    assert bleu(replies, references) == pytest.approx(sacrebleu.corpus_bleu(replies, [references]).score, abs=1e-9)
    statistic = bleu_of(replies, references)
    for _ in range(5):
        indexes = rng.integers(60, size=60)
        resample = [replies[i] for i in indexes], [[references[i] for i in indexes]]
        assert statistic(indexes) == pytest.approx(sacrebleu.corpus_bleu(*resample, force=True).score, abs=1e-9)


def test_bleu_of_copies_is_100_and_of_nothing_in_common_0():
    assert bleu(["one two three four five"], ["one two three four five"]) == pytest.approx(100)
    assert bleu(["one two three four"], ["five six seven eight"]) == bleu([""], ["five"]) == 0.0


def test_bleu_is_reported_with_what_it_is():
    assert bleu_signature() == f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{sacrebleu.__version__}"


def test_a_bootstrap_is_the_same_for_a_seed_and_another_for_another(rng):
    mean = mean_of(rng.random(50))
    assert bootstrap(50, mean) == bootstrap(50, mean, seed=0) != bootstrap(50, mean, seed=1)


def test_a_means_interval_is_the_normal_one_where_there_are_many_values(rng):
    values = rng.normal(3, 2, size=4000)
    error = values.std() / np.sqrt(4000)
    low, high = bootstrap(4000, mean_of(values))
    # The ends of 1,000 resamples' 95 % themselves vary by about 0.08 standard errors; five of those.
    assert [low, high] == pytest.approx([values.mean() - 1.96 * error, values.mean() + 1.96 * error], abs=0.4 * error)


def test_an_interval_of_a_ratio_weighs_each_example_by_its_tokens(rng):
    tokens = rng.integers(1, 100, size=300)
    losses = tokens * rng.normal(2, 0.5, size=300)
    every = np.arange(300)
    assert ratio_of(losses, tokens)(every) == pytest.approx(losses.sum() / tokens.sum())
    low, high = bootstrap(300, ratio_of(losses, tokens))
    assert low < losses.sum() / tokens.sum() < high
    assert bootstrap(300, ratio_of(2.0 * tokens, tokens)) == (2.0, 2.0)


def test_about_95_of_100_intervals_of_macro_f1_hold_the_truth(rng):
    gold = rng.integers(3, size=20_000)
    guessed = np.where(rng.random(20_000) < 0.7, gold, rng.integers(3, size=20_000))
    truth, held = macro_f1(gold, guessed, 3), 0
    for _ in range(100):
        sample = rng.integers(20_000, size=200)
        a, b = gold[sample], guessed[sample]
        low, high = bootstrap(200, lambda i, a=a, b=b: macro_f1(a[i], b[i], 3), resamples=200)
        held += low <= truth <= high
    assert held >= 83  # of 95 expected: 5 standard deviations of chance, sqrt(100 * 0.95 * 0.05) = 2.2 each


def test_an_interval_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one example"):
        bootstrap(0, mean_of([]))
