"""ROUGE-L and CIDEr as COCO's caption scripts count them, on the words of `penn_treebank`.

https://github.com/tylin/coco-caption, which the E2E challenge uses unchanged. Both score each text by itself.
ROUGE-L: Lin 2004. CIDEr: Vedantam et al. 2015, https://arxiv.org/abs/1411.5726, with that script's clipping and
penalty of length.
"""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from evaluation.metrics import ngrams

BETA = 1.2  # of ROUGE-L: recall weighs β² as much as precision
ORDERS = 4  # CIDEr's n-grams
SIGMA = 6.0  # words by which a text may differ in length
SCALE = 10.0


def rouge_l(words: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """The F-measure of the longest common subsequence, 0 to 1: the best precision with the best recall, which may be
    those of different references. An empty text counts as one empty word.
    """
    own, several = words or [""], [reference or [""] for reference in references]
    common = [_longest_common(own, reference) for reference in several]
    precision = max(common) / len(own)
    recall = max(length / len(reference) for length, reference in zip(common, several, strict=True))
    if not precision or not recall:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def _longest_common(a: Sequence[str], b: Sequence[str]) -> int:
    """The length of the longest common subsequence of two lists."""
    row = [0] * (len(b) + 1)  # of the part of `a` so far with each beginning of `b`
    for x in a:
        before = row
        row = [0]
        for place, y in enumerate(b):
            row.append(before[place] + 1 if x == y else max(before[place + 1], row[place]))
    return row[-1]


def cider(texts: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> list[float]:
    """CIDEr of each text, from its words and its references': how like them it is in n-grams, of which those weigh
    most that few texts' references have.
    """
    found_in: Counter = Counter()  # in how many texts' references
    for several in references:
        found_in.update({ngram for words in several for n in range(1, ORDERS + 1) for ngram in ngrams(words, n)})
    weighed, scores = _Weighed(found_in, len(texts)), []
    for text, several in zip(texts, references, strict=True):
        own = weighed(text)
        scores.append(SCALE * float(np.mean([_similarity(own, weighed(reference)) for reference in several])))
    return scores


class _Weighed:
    """Makes of words, for each n, the weight of each n-gram, and their norm; and how many 2-grams there are, which is
    how long that script takes a text to be.
    """

    def __init__(self, found_in: Counter, count: int):
        self.found_in, self.top = found_in, math.log(count)

    def __call__(self, words: Sequence[str]) -> tuple[list[dict], list[float], int]:
        """The weights for n from 1, their norms, the number of 2-grams."""
        weights = []
        for n in range(1, ORDERS + 1):
            counts = Counter(ngrams(words, n))
            weights.append({g: count * (self.top - math.log(max(1, self.found_in[g]))) for g, count in counts.items()})
        norms = [math.sqrt(sum(weight**2 for weight in of_n.values())) for of_n in weights]
        return weights, norms, max(0, len(words) - 1)


def _similarity(own: tuple, other: tuple) -> float:
    """The mean over n of the cosine of two texts' weights, a weight of the text's own counted up to the reference's."""
    cosines = []
    for a, b, norm_a, norm_b in zip(own[0], other[0], own[1], other[1], strict=True):
        dot = sum(min(weight, b[ngram]) * b[ngram] for ngram, weight in a.items() if ngram in b)
        cosines.append(dot / (norm_a * norm_b) if norm_a and norm_b else 0.0)
    return sum(cosines) / ORDERS * math.exp(-((own[2] - other[2]) ** 2) / (2 * SIGMA**2))
