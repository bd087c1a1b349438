"""Measures of answers, classes and replies, and how far chance moves them.

Each follows the definition its field reports, so that a figure here can stand beside a published one.
Answers (SQuAD) are scored one by one, classes and replies as a whole. `bootstrap` puts a 95 % interval
around any of them. sacrebleu is imported only where replies are measured.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

Statistic = Callable[[np.ndarray], float]  # of the examples at these indexes, int [count]; one may stand there twice

ARTICLES = re.compile(r"\b(a|an|the)\b")
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
Z_95 = 1.96  # standard errors to either side that hold 95 % of a normal distribution


# Answers: Rajpurkar et al. 2016, https://arxiv.org/abs/1606.05250, by the rules of its evaluate-v1.1.py.


def normalize_answer(text: str) -> str:
    """Lower case, without ASCII punctuation and the articles a, an, the, one space between words.

    Punctuation goes first and leaves no gap: "a.m." is "am", and "(the)" is an article.
    """
    return " ".join(ARTICLES.sub(" ", text.lower().translate(WITHOUT_PUNCTUATION)).split())


def exact_match(prediction: str, references: Sequence[str]) -> int:
    """1 where the prediction, normalised, is one of the references, else 0.

    No references mean "no answer", as in SQuAD 2.0: then 1 exactly where the prediction normalises to nothing.
    """
    return int(normalize_answer(prediction) in map(normalize_answer, references or [""]))


def f1(prediction: str, references: Sequence[str]) -> float:
    """The F1 of the prediction's words against the best reference's, 0 to 1, words as a multiset.

    No references mean "no answer", as in SQuAD 2.0: then exact_match. A prediction that normalises to nothing
    shares no word with any reference and has 0, as in SQuAD 1.1, even where exact_match is 1.
    """
    if not references:
        return float(exact_match(prediction, references))
    words = normalize_answer(prediction).split()
    return max(_word_f1(words, normalize_answer(reference).split()) for reference in references)


def _word_f1(predicted: list[str], reference: list[str]) -> float:
    shared = (Counter(predicted) & Counter(reference)).total()
    if shared == 0:
        return 0.0
    precision, recall = shared / len(predicted), shared / len(reference)
    return 2 * precision * recall / (precision + recall)


# Classes: whole numbers from 0.


def accuracy(gold: Sequence[int], predicted: Sequence[int]) -> float:
    """The share of predictions that are right, 0 to 1. Raises ValueError for none, or for unequal lengths."""
    _check_pairs(gold, predicted)
    return float(np.mean(np.asarray(gold) == np.asarray(predicted)))


def confusion(gold: Sequence[int], predicted: Sequence[int], classes: int) -> np.ndarray:
    """How often each class was taken for each: int64 [classes, classes], rows gold, columns predicted.

    Raises ValueError for no examples, unequal lengths, or a class outside 0 ... classes - 1.
    """
    _check_pairs(gold, predicted)
    pairs = np.stack([gold, predicted], dtype=np.int64, casting="same_kind")  # [2, examples]
    if pairs.min() < 0 or pairs.max() >= classes:
        raise ValueError(f"classes go from 0 to {classes - 1}, not from {pairs.min()} to {pairs.max()}")
    return np.bincount(pairs[0] * classes + pairs[1], minlength=classes**2).reshape(classes, classes)


def macro_f1(gold: Sequence[int], predicted: Sequence[int], classes: int) -> float:
    """The unweighted mean of the classes' F1, 0 to 1: rare classes count like frequent ones.

    F1 = 2 TP / (2 TP + FP + FN); a class that is neither there nor predicted has 0. This is scikit-learn's
    f1_score(average="macro", labels=range(classes), zero_division=0). Raises as `confusion` does.
    """
    matrix = confusion(gold, predicted, classes)
    there_and_predicted = matrix.sum(1) + matrix.sum(0)  # [classes], 2 TP + FP + FN
    return float(np.mean(2 * matrix.diagonal() / np.maximum(there_and_predicted, 1)))


# Replies.


def distinct(texts: Sequence[str], n: int) -> float:
    """Distinct n-grams / n-grams over all texts together, 0 to 1, and 0 where there are none.

    After Li et al. 2016, https://arxiv.org/abs/1510.03055. Words are those of BLEU's tokenizer 13a in lower
    case; an n-gram lies within one text. It falls as texts are added: compare equal numbers of texts.
    """
    counts = Counter(ngram for ngrams in _ngrams(texts, n) for ngram in ngrams)
    return len(counts) / max(counts.total(), 1)


def distinct_interval(texts: Sequence[str], n: int) -> tuple[float, float]:
    """The 95 % interval of `distinct`, from leaving out one text at a time (the jackknife), within 0 to 1.

    Not by `bootstrap`: a resample repeats texts, and their n-grams, so that it is less diverse than the texts
    themselves and its interval lies below the value. Of 1,000 of DailyDialog's turns, drawn 100 times, the
    interval held the mean of all such draws 95 times; that of `bootstrap` never did.
    """
    value = distinct(texts, n)
    ngrams = _ngrams(texts, n)
    found_in = Counter(ngram for of_text in ngrams for ngram in set(of_text))  # texts, not occurrences
    alone = np.array([sum(found_in[ngram] == 1 for ngram in set(of_text)) for of_text in ngrams])
    lengths = np.array([len(of_text) for of_text in ngrams])
    if np.count_nonzero(lengths) < 2:
        return 0.0, 1.0  # one text says nothing of how texts vary
    without = (len(found_in) - alone) / (lengths.sum() - lengths)  # [texts]: the value without this one
    error = np.sqrt((len(texts) - 1) * without.var())
    return max(0.0, float(value - Z_95 * error)), min(1.0, float(value + Z_95 * error))


def bleu(replies: Sequence[str], references: Sequence[str]) -> float:
    """Corpus BLEU of the replies against one reference each, 0 to 100, as sacrebleu's defaults have it.

    Papineni et al. 2002 and Post 2018, https://arxiv.org/abs/1804.08771. Report it with `bleu_signature()`.
    Raises ValueError for no replies, or for unequal lengths.
    """
    return bleu_of(replies, references)(np.arange(len(replies)))


def bleu_signature() -> str:
    """What BLEU this is, in sacrebleu's words: references, case, tokenizer, smoothing, version."""
    from sacrebleu.metrics import BLEU

    measure = BLEU()
    measure.corpus_score(["a"], [["a"]])  # it learns the number of references here
    return str(measure.get_signature())


# Intervals.


def bootstrap(count: int, statistic: Statistic, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile interval of a statistic over `count` examples (Efron and Tibshirani 1993, chapter 13).

    `statistic` gets int64 indexes [count] of examples drawn with replacement, the same ones for a seed:

        bootstrap(len(scores), mean_of(scores))                                   # EM, F1, accuracy
        bootstrap(len(losses), ratio_of(losses, tokens))                          # perplexity: exp of both ends
        bootstrap(len(gold), lambda i: macro_f1(gold[i], predicted[i], classes))  # arrays
        bootstrap(len(replies), bleu_of(replies, references))

    Raises ValueError for no examples.
    """
    if count < 1:
        raise ValueError("an interval needs at least one example")
    generator = np.random.default_rng(seed)
    values = [statistic(generator.integers(count, size=count)) for _ in range(resamples)]
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def mean_of(values: Sequence[float]) -> Statistic:
    """The mean of a value for each example, for `bootstrap`."""
    array = np.asarray(values, np.float64)
    return lambda indexes: float(array[indexes].mean())


def ratio_of(numerators: Sequence[float], denominators: Sequence[float]) -> Statistic:
    """The sum of the numerators / the sum of the denominators, for `bootstrap`: losses / tokens, say.

    Raises ValueError for no examples, or for unequal lengths.
    """
    _check_pairs(numerators, denominators)
    upper, lower = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    return lambda indexes: float(upper[indexes].sum() / lower[indexes].sum())


def bleu_of(replies: Sequence[str], references: Sequence[str]) -> Statistic:
    """`bleu`, for `bootstrap`: each reply's matches are counted once, and summed again in every resample."""
    from sacrebleu.metrics import BLEU

    _check_pairs(replies, references)
    measure = BLEU(effective_order=True)  # only sacrebleu's wish for single sentences: counts do not depend on it
    counted = [measure.sentence_score(*pair) for pair in zip(replies, ([text] for text in references), strict=True)]
    matches = np.array([[score.sys_len, score.ref_len, *score.counts, *score.totals] for score in counted])

    def statistic(indexes: np.ndarray) -> float:
        """Corpus BLEU, 0 to 100, of the replies at these indexes."""
        reply_length, reference_length, *of_orders = matches[indexes].sum(0).tolist()
        half = len(of_orders) // 2
        return BLEU.compute_bleu(
            of_orders[:half], of_orders[half:], reply_length, reference_length, smooth_method="exp"
        ).score

    return statistic


def ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """The n-grams of a text's words, in order."""
    return list(zip(*(words[i:] for i in range(n)), strict=False))


def _ngrams(texts: Sequence[str], n: int) -> list[list[tuple[str, ...]]]:
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    if n < 1:
        raise ValueError(f"n-grams have at least one word, not {n}")
    tokenize = Tokenizer13a()
    words = [tokenize(text.lower()).split() for text in texts]
    return [ngrams(of_text, n) for of_text in words]


def _check_pairs(first: Sequence, second: Sequence) -> None:
    if not len(first) == len(second) > 0:
        raise ValueError(f"as many of both are needed, and at least one: not {len(first)} and {len(second)}")
