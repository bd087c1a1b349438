"""Beam search as transformers 5 does it: the same sequences, in the same order, with the same scores.

A prompt's search never looks at its neighbours in the batch, so each is an object of its own; they share the model's
work. Finished ones leave the batch, and so a prompt's result is that of the prompt alone.
"""

import numbers
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.errors import ParameterError
from generation.running import pad_left
from generation.sampling import (
    against_repetition,
    check_drawable,
    check_length_penalty,
    check_num_beams,
    log_softmax,
)
from generation.text import EndIds, Generated, end_set, max_answer_tokens
from gpt2_jittor.model.cache import KVCache
from gpt2_jittor.model.lm import GPT2LMHeadModel
from gpt2_jittor.model.next_token import last_logits
from gpt2_jittor.model.pretrained import evaluating

NEVER = np.float32(-1e9)  # transformers' score of what must not be chosen; less probable than any text


def beam_search(
    model: GPT2LMHeadModel,
    prompts: Sequence[Sequence[int]],
    num_beams: int,
    max_new_tokens: int,
    end_id: EndIds,
    length_penalty: float = 1.0,
    no_repeat_ngram_size: int = 0,
    repetition_penalty: float = 1.0,
    early_stopping: bool | str = False,
    penalise_prompt: bool = True,
    samples: int = 1,
) -> list[list[Generated]]:
    """Continues prompts of any lengths: for each its `samples` best continuations, the best first.

    `beam_score`, which ranks them, is the sum of their tokens' log-probabilities after the penalties, divided by
    length ** `length_penalty`: above 0 longer ones gain. The length is that of what was generated, the end token
    included. The search ends with `num_beams` finished continuations (`early_stopping` True), when the running ones
    are not likely to become better than those (False), or when they cannot ("never"); at the latest after
    `max_new_tokens` or with the last position. The penalties see the prompt, as transformers' do, but no pads; without
    `penalise_prompt` they see the continuation alone, as transformers' do where an encoder reads the prompt.
    There are fewer than `samples` only where the penalties leave no more.

    Raises UserError for options out of range and, as `stream`, for prompts.
    """
    options = _Options(num_beams, end_set(end_id), length_penalty, early_stopping)
    _check(options, max_new_tokens, samples, model.config.vocab_size)
    penalties = against_repetition(repetition_penalty, no_repeat_ngram_size)
    limits = max_answer_tokens(prompts, max_new_tokens, model.config.n_positions)
    searches = [_Search(prompt, limit, options) for prompt, limit in zip(prompts, limits, strict=True)]
    live, cache = searches, KVCache()
    new, mask = pad_left(prompts)
    with evaluating(model):
        while live:
            logits = last_logits(model, new, cache, mask)  # [rows, vocab], a row for each beam of each search
            check_drawable(logits)
            log_probs = log_softmax(logits)
            scores = log_probs
            for penalty in penalties:
                scores = penalty(scores, [ids for search in live for ids in search.texts(penalise_prompt)])
            rows = _advance(live, scores, log_probs)
            live = [search for search in live if not search.done]
            if live:
                cache.select(rows)
                new, mask = np.concatenate([search.ids[:, -1:] for search in live]), None
    if not all(search.pool for search in searches):
        raise ParameterError(
            "no token is left to choose: use a less extreme {no_repeat_ngram_size} or {repetition_penalty}"
        )
    return [search.pool[:samples] for search in searches]


@dataclass(frozen=True)
class _Options:
    num_beams: int
    ends: frozenset[int]
    length_penalty: float
    early_stopping: bool | str

    @property
    def candidates(self) -> int:
        """How many continuations are looked at: of each beam as many as there are end tokens may be finished, and so
        enough of them run on.
        """
        return max(2, 1 + len(self.ends)) * self.num_beams


class _Search:
    """One prompt's search: its running beams, the most probable first, and the pool of its best finished ones."""

    def __init__(self, prompt: Sequence[int], limit: int, options: _Options):
        self.prompt, self.limit, self.options = np.asarray(prompt, np.int64), limit, options
        self.ids = np.zeros((1, 0), np.int64)  # [beams, generated]; the prompt itself is the only beam at first
        self.scores = np.zeros(1, np.float32)  # [beams], after the penalties
        self.log_probs = np.zeros(1)  # [beams], the model's own
        self.pool: list[Generated] = []

    def texts(self, with_prompt: bool) -> list[np.ndarray]:
        """Each beam's ids, perhaps behind the prompt's."""
        return [np.concatenate([self.prompt, ids]) if with_prompt else ids for ids in self.ids]

    def advance(self, scores: np.ndarray, log_probs: np.ndarray) -> np.ndarray:
        """Makes the beams one token longer; returns which beam each of the new ones continues.

        Takes log-probabilities of the next token, [beams, vocab]: after the penalties, and the model's own.
        """
        beams, parents, tokens = _best(self.scores[:, None] + scores, self.options.candidates)
        log_probs = self.log_probs[parents] + log_probs[parents, tokens]
        ids = np.concatenate([self.ids[parents], tokens[:, None]], axis=1)
        finished = np.isin(tokens, list(self.options.ends)) | (ids.shape[1] == self.limit)
        self._collect(ids, beams, log_probs, finished)
        running = beams + NEVER * finished
        chosen = np.argsort(-running, kind="stable")[: self.options.num_beams]
        self.ids, self.scores, self.log_probs = ids[chosen], running[chosen], log_probs[chosen]
        return parents[chosen]

    def _collect(self, ids, scores, log_probs, finished) -> None:
        """Takes the finished ones into the pool. Those behind the first `num_beams` are there only to run on."""
        count, length = self.options.num_beams, ids.shape[1]
        for i in np.flatnonzero(finished[:count] & (scores[:count] > NEVER / 2)):
            *text, last = ids[i].tolist()
            end = last if last in self.options.ends else None
            text = [*text, last] if end is None else text
            score = float(self._per_length(scores[i], length))
            found = Generated(text, end is not None, float(log_probs[i]), length, beam_score=score, end_id=end)
            self.pool.append(found)
        self.pool = sorted(self.pool, key=lambda found: -found.beam_score)[:count]

    @property
    def done(self) -> bool:
        """Whether no running beam can, or is likely to, displace one of the pool; true too where none runs on."""
        length = self.ids.shape[1]
        if length == self.limit or self.scores[0] < NEVER / 2:  # the penalties have left none to run on
            return True
        if len(self.pool) < self.options.num_beams:
            return False
        if self.options.early_stopping is True:
            return True
        # The best running beam is judged as if it ended here, though a positive penalty would let it gain by being
        # longer; "never" assumes the length at which it gains most.
        if self.options.early_stopping == "never" and self.options.length_penalty > 0:
            length = self.limit
        return bool(self._per_length(self.scores[0], length) <= np.float32(self.pool[-1].beam_score))

    def _per_length(self, score: np.float32, length: int) -> np.float32:
        return score / np.float32(length**self.options.length_penalty)


def _advance(live: list[_Search], scores: np.ndarray, log_probs: np.ndarray) -> np.ndarray:
    """Advances each search by its rows of the batch; returns the rows that those not done go on from."""
    rows, start = [], 0
    for search in live:
        part = slice(start, start + len(search.ids))
        parents = start + search.advance(scores[part], log_probs[part])
        if not search.done:
            rows.append(parents)
        start = part.stop
    return np.concatenate(rows) if rows else np.array([], np.int64)


def _best(scores: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The `count` best of [beams, vocab], in order: their scores, their beams and their tokens."""
    flat = scores.reshape(-1)
    places = np.argpartition(-flat, count - 1)[:count]
    places = places[np.argsort(-flat[places], kind="stable")]
    return flat[places], places // scores.shape[1], places % scores.shape[1]


def _check(options: _Options, max_new_tokens: int, samples: int, vocab: int) -> None:
    beams = options.num_beams
    if not isinstance(beams, numbers.Integral) or beams < 2:
        raise ParameterError("{num_beams} must be a whole number, 2 or more (1 is {greedy}), not {value}", value=beams)
    check_num_beams(beams, vocab, options.candidates // beams)
    if max_new_tokens < 1:
        raise ParameterError("{max_new_tokens} must be at least 1, not {value}", value=max_new_tokens)
    if not isinstance(samples, numbers.Integral) or not 1 <= samples <= beams:
        raise ParameterError(
            "{samples} must be between 1 and the {beams} beams, not {value}", beams=beams, value=samples
        )
    check_length_penalty(options.length_penalty)
    if options.early_stopping not in (True, False, "never"):
        raise ParameterError(
            '{early_stopping} must be True, False or "never", not {value}', value=options.early_stopping
        )
