"""The E2E challenge's five measures of texts that each have several right ones: BLEU, NIST, METEOR, ROUGE-L, CIDEr.

Their values are those of the challenge's script, https://github.com/tuetschek/e2e-metrics, with its option `-p`, to its
last digit; here BLEU, METEOR and ROUGE-L are in percent, as papers have them.
"""

from collections.abc import Sequence

from common.errors import UserError
from evaluation.captions import cider, rouge_l
from evaluation.meteor import meteor_of
from evaluation.metrics import Statistic, mean_of
from evaluation.mteval import bleu_and_nist_of
from evaluation.penn_treebank import words


def statistics_of(texts: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[dict[str, Statistic], str]:
    """Each measure by its name, for `metrics.bootstrap`, and why METEOR is left out, where it is.

    In a resample an n-gram is worth as much as among all the texts: NIST and CIDEr count that once. Raises ValueError
    for no texts, unequal numbers of both, or a text without references.
    """
    if not len(texts) == len(references) > 0 or not all(references):
        raise ValueError("each of one or more texts needs its references")
    texts = [" ".join(text.split()) for text in texts]  # as they are written for the official script, a line each
    found, missing = bleu_and_nist_of(texts, references), ""
    own, several = [words(text) for text in texts], [[words(text) for text in right] for right in references]
    try:
        found["meteor"] = meteor_of(own, several)
    except UserError as error:
        missing = f"meteor left out: {error}"
    found["rouge_l"] = mean_of([100 * rouge_l(*pair) for pair in zip(own, several, strict=True)])
    found["cider"] = mean_of(cider(own, several))
    return found, missing
