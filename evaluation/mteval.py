"""BLEU and NIST as the E2E challenge counts them: mteval-v13a in Python, with any number of references.

https://github.com/tuetschek/e2e-metrics, metrics/pymteval.py. It differs from sacrebleu where a text has fewer than
four words: that takes from the n-grams there are. All in small letters. BLEU: Papineni et al. 2002. NIST: Doddington
2002.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.metrics import Statistic, ngrams

BLEU_ORDERS, NIST_ORDERS = 4, 5
ORDERS = range(1, NIST_ORDERS + 1)
TINY, SMALL = 1e-15, 1e-9  # in place of no matches and of no n-grams, so that logarithms are defined
BETA = -math.log(0.5) / math.log(1.5) ** 2  # two thirds of the references' length halve NIST


def bleu_and_nist_of(texts: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Statistic]:
    """BLEU, 0 to 100, and NIST of texts against several references each, for `metrics.bootstrap`.

    What an n-gram's match is worth to NIST is counted once, from all references.
    """
    counts = _counts(texts, references)
    return {"bleu": lambda indexes: 100 * _bleu(counts, indexes), "nist": lambda indexes: _nist(counts, indexes)}


@dataclass(frozen=True)
class _Counts:
    """Of each text: its words, those of the reference that is nearest in length and of the mean one, [texts]; and
    for n from 1 its n-grams that are in a reference, and what they are worth to NIST, [texts, NIST_ORDERS].
    """

    words: np.ndarray
    nearest: np.ndarray
    mean: np.ndarray
    matches: np.ndarray
    worth: np.ndarray


def _counts(texts: Sequence[str], references: Sequence[Sequence[str]]) -> _Counts:
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    tokenize = Tokenizer13a()

    def words(text: str) -> list[str]:
        """A text's words; of none one that is empty, as there."""
        return [word.lower() for word in tokenize(text).split(" ")]

    said, right = [words(text) for text in texts], [[words(text) for text in several] for several in references]
    occurrences = Counter(ngram for several in right for r in several for n in ORDERS for ngram in ngrams(r, n))
    occurrences[()] = sum(len(r) for several in right for r in several)
    rows = []
    for own, several in zip(said, right, strict=True):
        nearest = min(several, key=lambda r: (abs(len(r) - len(own)), len(r)))
        matched = [_matched(own, several, n) for n in ORDERS]
        worth = [sum(count * _information(ngram, occurrences) for ngram, count in of_n.items()) for of_n in matched]
        rows.append((len(own), len(nearest), np.mean([len(r) for r in several]), *map(Counter.total, matched), *worth))
    columns = np.array(rows, np.float64)
    return _Counts(*columns[:, :3].T, columns[:, 3 : 3 + NIST_ORDERS], columns[:, 3 + NIST_ORDERS :])


def _matched(own: Sequence[str], several: Sequence[Sequence[str]], n: int) -> Counter:
    """Its n-grams, each as often as it is there and in that reference that has it most often."""
    most: Counter = Counter()
    for reference in several:
        most |= Counter(ngrams(reference, n))
    return Counter(ngrams(own, n)) & most


def _information(ngram: tuple[str, ...], occurrences: Counter) -> float:
    """How many bits its last word tells behind the others."""
    return math.log2(occurrences[ngram[:-1]] / occurrences[ngram])


def _lengths(counts: _Counts, indexes: np.ndarray, orders: int) -> list[float]:
    """How many n-grams the texts have; a text of fewer than n - 1 words has less than none."""
    words = counts.words[indexes]
    return [float((words - n).sum()) for n in range(orders)]


def _bleu(counts: _Counts, indexes: np.ndarray) -> float:
    matches, lengths = counts.matches[indexes].sum(0), _lengths(counts, indexes, BLEU_ORDERS)
    logs = [math.log(max(m, TINY) / max(length, SMALL)) for m, length in zip(matches, lengths, strict=False)]
    shorter = lengths[0] <= (wanted := float(counts.nearest[indexes].sum()))
    return math.exp(sum(logs) / BLEU_ORDERS) * (math.exp(1 - wanted / lengths[0]) if shorter else 1.0)


def _nist(counts: _Counts, indexes: np.ndarray) -> float:
    lengths = _lengths(counts, indexes, NIST_ORDERS)
    # there are no n-grams at all only where every text is that short: it has no match then
    total = sum(worth / length for worth, length in zip(counts.worth[indexes].sum(0), lengths, strict=True) if length)
    ratio = lengths[0] / float(counts.mean[indexes].sum())
    return float(total) * (1.0 if ratio >= 1 else math.exp(-BETA * math.log(ratio) ** 2))
