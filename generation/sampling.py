"""From logits to the next token: small functions logits -> logits, and one closure that chains them.

Each function is the numpy twin of a transformers `LogitsProcessor` and they run in transformers' order, so
that an option means here what it means there. Only numpy is needed: the logits of one step, [batch, vocab],
have left the device by then. What needs the logits alone, a `Choice`, a kernel makes (`ops/choose.py`), after the
definitions that stand here.
"""

import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from common.errors import ParameterError

MOST_LENGTH_PENALTY = 10

# the logits, float32 [batch, vocab], and the ids so far, one int array a row -> logits [batch, vocab]
Step = Callable[[np.ndarray, Sequence[np.ndarray]], np.ndarray]
# the same -> the next ids, int64 [batch]: a Sampler, or any function
Sample = Callable[[np.ndarray, Sequence[np.ndarray]], np.ndarray]


@dataclass(frozen=True)
class Choice:
    """How an id is chosen from logits alone; names and values as of `make_sampler`."""

    greedy: bool
    temperature: float
    top_k: int
    top_p: float
    min_p: float

    def steps(self) -> list[Step]:
        """What is done to the logits before one is drawn."""
        steps: list[Step] = []
        if self.greedy:
            return steps
        if self.temperature != 1:
            steps.append(lambda logits, ids: scale_by_temperature(logits, self.temperature))
        if self.top_k > 0:
            steps.append(lambda logits, ids: keep_top_k(logits, self.top_k))
        if self.top_p < 1:
            steps.append(lambda logits, ids: keep_top_p(logits, self.top_p))
        if self.min_p > 0:
            steps.append(lambda logits, ids: keep_min_p(logits, self.min_p))
        return steps


class Sampler:
    """Chooses every row's next id; `make_sampler` builds it. It owns a generator, of which each row takes one number.

    Of several texts with one seed each has a `number`, and so its own generator: what one draws depends on no other.
    needs_ids: whether it looks at more than the logits, for which it must be given them here, on the host.
    """

    def __init__(self, against: Sequence[Step], choice: Choice, seed: int | None, number: int = 0):
        self.needs_ids, self.choice = bool(against), choice
        self._steps = [*against, *choice.steps()]
        self._generator = np.random.default_rng(None if seed is None else [seed, number])

    def __call__(self, logits: np.ndarray, ids: Sequence[np.ndarray]) -> np.ndarray:
        """logits float32 [batch, vocab], and the ids so far, one int array a row → the next ids, int64 [batch]."""
        for step in self._steps:
            logits = step(logits, ids)
        check_drawable(logits)
        return logits.argmax(axis=-1) if self.choice.greedy else draw(logits, self._generator)

    def uniform(self) -> float | None:
        """The next number to draw by, in [0, 1); None where nothing is drawn."""
        return None if self.choice.greedy else self._generator.random()


def make_sampler(
    *,
    greedy: bool = False,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    no_repeat_ngram_size: int = 0,
    seed: int | None = None,
    number: int = 0,
) -> Sampler:
    """Builds the function that chooses every row's next id.

    `greedy` or a temperature of 0 takes the most probable id, after `repetition_penalty` and
    `no_repeat_ngram_size`; the other options then have no say, as in transformers. `top_k`, `min_p` and
    `no_repeat_ngram_size` 0, `top_p` and `repetition_penalty` 1 are off. The rows of ids may differ in length and
    hold no padding, which would count as repeated too. A sampler owns its generator: two made with the same seed
    and the same `number` draw the same ids.

    Raises UserError for an option out of range; the sampler raises it for logits from which nothing can be
    drawn (NaN, +inf, or a row of -inf).
    """
    _check(temperature, top_k, top_p, min_p, seed)
    against = against_repetition(repetition_penalty, no_repeat_ngram_size)
    return Sampler(against, Choice(greedy or temperature == 0, temperature, top_k, top_p, min_p), seed, number)


def against_repetition(repetition_penalty: float = 1.0, no_repeat_ngram_size: int = 0) -> list[Step]:
    """The steps that look at the ids so far; a beam search takes them too, on log-probabilities.

    Raises UserError for an option out of range.
    """
    if not 0 < repetition_penalty < np.inf:
        raise ParameterError(
            "{repetition_penalty} must be a positive number, 1 is off, not {value}", value=repetition_penalty
        )
    if not isinstance(no_repeat_ngram_size, numbers.Integral) or no_repeat_ngram_size < 0:
        raise ParameterError(
            "{no_repeat_ngram_size} must be a whole number, 0 (off) or more, not {value}", value=no_repeat_ngram_size
        )
    steps: list[Step] = []
    if repetition_penalty != 1:
        steps.append(lambda logits, ids: penalize_repetition(logits, ids, repetition_penalty))
    if no_repeat_ngram_size > 0:
        steps.append(lambda logits, ids: ban_repeated_ngrams(logits, ids, no_repeat_ngram_size))
    return steps


def penalize_repetition(logits: np.ndarray, ids: Sequence[np.ndarray], penalty: float) -> np.ndarray:
    """Makes the ids that a row already holds less probable: positive logits / penalty, negative * penalty.

    Takes and returns [batch, vocab]; an id counts once however often it occurs. From CTRL,
    https://arxiv.org/abs/1909.05858, section 4.1, with the sign handled as in transformers.
    """
    logits = logits.copy()
    penalty = np.float32(penalty)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):  # reported once, by the sampler
        for row, seen in zip(logits, ids, strict=True):
            scores = row[seen]
            row[seen] = np.where(scores < 0, scores * penalty, scores / penalty)
    return logits


def ban_repeated_ngrams(logits: np.ndarray, ids: Sequence[np.ndarray], size: int) -> np.ndarray:
    """Puts -inf where an id would complete `size` ids in a row that its row already holds: [batch, vocab].

    Size 1 bans every id that was there.
    """
    logits = logits.copy()
    for row, seen in zip(logits, ids, strict=True):
        if len(seen) >= size:
            windows = np.lib.stride_tricks.sliding_window_view(np.asarray(seen, np.int64), size)
            last = windows[-1, 1:]  # what the next id will follow
            row[windows[(windows[:, :-1] == last).all(axis=1), -1]] = -np.inf
    return logits


def penalize_frequency(
    logits: np.ndarray, ids: Sequence[np.ndarray], frequency: float, presence: float, start: int
) -> np.ndarray:
    """Makes what a row has generated less probable: logit - count * frequency - presence, of ids from `start` on.

    Takes and returns [batch, vocab]. OpenAI's formula, without the prompt: https://platform.openai.com/docs/advanced-usage
    """
    logits = logits.copy()
    for row, seen in zip(logits, ids, strict=True):
        found, counts = np.unique(seen[start:], return_counts=True)
        row[found] -= (counts * frequency + presence).astype(row.dtype)
    return logits


def add_bias(logits: np.ndarray, ids: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Adds bias, float32 [some], to the logits of these ids, int64 [some], in every row of [batch, vocab]."""
    logits = logits.copy()
    logits[:, ids] += bias
    return logits


def scale_by_temperature(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Divides [batch, vocab] by a positive temperature: below 1 sharpens, above 1 flattens."""
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):  # reported once, by the sampler
        return logits / np.float32(temperature)


def keep_top_k(logits: np.ndarray, k: int) -> np.ndarray:
    """Puts -inf where a logit of [batch, vocab] is below its row's k-th largest; ties with that one stay."""
    k = min(k, logits.shape[-1])
    smallest_kept = np.partition(logits, -k, axis=-1)[:, -k]  # [batch], without sorting the vocabulary
    return np.where(logits < smallest_kept[:, None], np.float32(-np.inf), logits)


def keep_top_p(logits: np.ndarray, p: float) -> np.ndarray:
    """Keeps the fewest most probable ids of each row of [batch, vocab] that together reach p, at least one.

    Nucleus sampling, https://arxiv.org/abs/1904.09751. Of equal logits at the border the later ids stay, as
    after a stable ascending sort; transformers' own choice among them is its sort's and undefined.
    """
    return np.stack([_nucleus(row, p) for row in logits])


def keep_min_p(logits: np.ndarray, p: float) -> np.ndarray:
    """Puts -inf where an id of [batch, vocab] has less than p times the probability of its row's most probable one.

    From https://arxiv.org/abs/2407.01082. p 1 keeps that one alone, with its ties.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        probabilities = np.exp(logits - logits.max(axis=-1, keepdims=True))
        probabilities /= probabilities.sum(axis=-1, keepdims=True)
    least = np.float32(p) * probabilities.max(axis=-1, keepdims=True)
    return np.where(probabilities < least, np.float32(-np.inf), logits)  # nothing is below NaN: see `_nucleus`


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Logarithms of the probabilities, float32 [batch, vocab], NaN in a row from which nothing can be drawn."""
    with np.errstate(over="ignore", invalid="ignore"):
        shifted = logits - logits.max(axis=-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def draw(logits: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Draws one id a row from softmax(logits), [batch, vocab] -> [batch] int64.

    Inverts the cumulative distribution: one uniform number a row, whatever the options have removed.
    """
    chosen = np.empty(len(logits), dtype=np.int64)
    for i, (row, uniform) in enumerate(zip(logits, generator.random(len(logits)), strict=True)):
        candidates = np.flatnonzero(row > -np.inf)  # after top-k only a handful of 50,257
        scores = row[candidates].astype(np.float64)
        cumulative = np.exp(scores - scores.max()).cumsum()
        # uniform < 1, but the product may round up to the total, beyond the last candidate
        point = min(uniform * cumulative[-1], np.nextafter(cumulative[-1], 0))
        chosen[i] = candidates[np.searchsorted(cumulative, point, side="right")]
    return chosen


def _nucleus(row: np.ndarray, p: float) -> np.ndarray:
    # Sorting values is several times faster than sorting indices, and the border's value tells the rest.
    ascending = np.sort(row[row != -np.inf])
    if not len(ascending):
        return row  # nothing to choose from: the sampler refuses it
    with np.errstate(over="ignore", invalid="ignore"):  # far below the maximum is -inf: probability 0
        probabilities = np.exp(ascending - ascending[-1])
    probabilities /= probabilities.sum()
    # Summed in float64, rounded, then compared in float32, as torch does: borders such as 0.1 fall alike.
    below = probabilities.cumsum(dtype=np.float64).astype(np.float32) <= np.float32(1 - p)
    removed = min(np.count_nonzero(below), len(ascending) - 1)
    border = ascending[removed]
    dropped = row < border  # NaN is not below anything: it stays, for the sampler to refuse
    ties_dropped = removed - np.searchsorted(ascending, border)
    dropped[np.flatnonzero(row == border)[:ties_dropped]] = True
    return np.where(dropped, np.float32(-np.inf), row)


def check_drawable(logits: np.ndarray) -> None:
    """Raises UserError where a row of [batch, vocab] holds NaN or +inf, or nothing but -inf."""
    if not np.isfinite(logits.max(axis=-1)).all():  # a row's maximum is NaN where any of the row is
        raise not_drawable()


def not_drawable() -> ParameterError:
    """What to say where no token can be chosen."""
    return ParameterError(
        "no token can be chosen from the logits, which hold NaN or infinity: use other weights (did training "
        "diverge?), or a less extreme {temperature}, {repetition_penalty} or {no_repeat_ngram_size}"
    )


def check_num_beams(num_beams: int, vocab: int, candidates: int = 2) -> None:
    """Raises UserError where a vocabulary has not so many `candidates` for each beam."""
    if candidates * num_beams > vocab:
        share = "half" if candidates == 2 else f"1/{candidates}"
        raise ParameterError(
            "{num_beams} must be at most {share} of the vocabulary's {vocab} tokens, not {value}",
            share=share,
            vocab=vocab,
            value=num_beams,
        )


def check_length_penalty(value: float) -> None:
    """Raises UserError for what a beam search cannot divide by: lengths to the power of hundreds leave float32."""
    if not abs(value) <= MOST_LENGTH_PENALTY:
        raise ParameterError(
            "{length_penalty} must be between ±{most}, not {value}", most=MOST_LENGTH_PENALTY, value=value
        )


def _check(temperature: float, top_k: int, top_p: float, min_p: float, seed: int | None) -> None:
    # Written as `not (within)` so that NaN, which compares as False, is refused as well.
    if not 0 <= temperature < np.inf:
        raise ParameterError("{temperature} must be 0 (greedy) or a positive number, not {value}", value=temperature)
    if not isinstance(top_k, numbers.Integral) or top_k < 0:
        raise ParameterError("{top_k} must be a whole number, 0 (off) or more, not {value}", value=top_k)
    if not 0 <= top_p <= 1:
        raise ParameterError("{top_p} must be between 0 and 1 (off), not {value}", value=top_p)
    if not 0 <= min_p <= 1:
        raise ParameterError("{min_p} must be between 0 (off) and 1, not {value}", value=min_p)
    if seed is not None and (not isinstance(seed, numbers.Integral) or seed < 0):
        raise ParameterError("{seed} must be a whole number, 0 or more, not {value}", value=seed)
