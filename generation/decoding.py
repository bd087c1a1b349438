"""Text, one token at a time, with a cache of keys and values: one prompt as a stream, or a batch of prompts.

On CUDA, with this project's kernels, tokens are chosen on the device, and each step copies them to the host and nothing
else. What needs the host takes the logits there: a sampler that looks at the ids so far (repetition penalty, banned
n-grams), and a beam search (`beam.py`).
"""

import numbers
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from common.errors import UserError
from generation.sampling import Sample, Sampler, log_probs_of, not_drawable
from generation.stopping import StopStrings
from gpt2_jittor.model.cache import KVCache
from gpt2_jittor.model.lm import GPT2LMHeadModel
from gpt2_jittor.model.next_token import last_logits, logits_on_device
from gpt2_jittor.model.pretrained import evaluating
from gpt2_jittor.ops import fused
from gpt2_jittor.ops.choose import choose

EndIds = int | Collection[int] | None  # what ends a text: one token, or each of several


@dataclass(frozen=True)
class Generated:
    """What was generated after one prompt, and how probable the model finds it."""

    ids: list[int]  # without the end token, with the tokens of a stop string
    ended: bool  # by an end token or a stop string; else the tokens or the positions ran out
    log_prob: float  # of all tokens together, in nats: the model's own, whatever options chose among them
    tokens: int  # counted in log_prob: the ids, and the end token where one was reached
    text: str | None = None  # where there were stop strings: the decoded ids up to the one that was reached
    beam_score: float | None = None  # of a beam search: what it ranks by
    end_id: int | None = None  # the end token that was reached

    @property
    def all_ids(self) -> list[int]:
        """The ids with the end token, which may be text itself: what transformers returns."""
        return self.ids if self.end_id is None else [*self.ids, self.end_id]

    @property
    def score(self) -> float:
        """The mean log-probability of a token; 0 where there is none."""
        return self.log_prob / max(self.tokens, 1)


class KeptPrefix:
    """Keys and values of the last text that was streamed to its end, for a next one that begins like it."""

    def __init__(self):
        self._cache, self._ids = KVCache(), np.zeros(0, np.int64)

    def take(self, prompt: np.ndarray) -> tuple[KVCache, np.ndarray]:
        """A cache that holds what is kept of what `prompt` begins with, and the ids that it lacks: one at least.

        It is the caller's alone: a stream that begins meanwhile gets another.
        """
        alike, cache = common_beginning(self._ids, prompt), KVCache()
        if alike:
            cache = self._cache
            cache.cut(alike)
        self._cache, self._ids = KVCache(), np.zeros(0, np.int64)
        return cache, prompt[alike:]

    def give_back(self, cache: KVCache, ids: np.ndarray) -> None:
        """Keeps a cache that holds these ids, in place of the last one."""
        self._cache, self._ids = cache, ids


def stream(
    model: GPT2LMHeadModel,
    prompt: Sequence[int],
    sample: Sample,
    max_new_tokens: int,
    end_id: EndIds,
    kept: KeptPrefix | None = None,
    penalise_prompt: bool = True,
) -> Iterator[int]:
    """Yields the ids that follow `prompt`, until an end token (not yielded), `max_new_tokens` or the last position.

    `end_id`: an end token, several of which each ends the text, or None. `kept`: what an earlier call with the same
    model has kept, of which what this prompt begins with is not computed again; it takes up this text.
    `penalise_prompt`: the sampler's penalties of repetition look at the prompt, too.
    Raises UserError for an empty prompt and for one that leaves no position free.
    """
    (limit,), ends = max_answer_tokens([prompt], max_new_tokens, model.config.n_positions), end_set(end_id)
    ids, kept = np.asarray(prompt, np.int64), kept or KeptPrefix()
    start = 0 if penalise_prompt else len(ids)
    with evaluating(model):
        cache, new = kept.take(ids)
        held = None  # the ids that the cache holds in every layer; None while a token is computed
        try:
            for _ in range(limit):
                held = None
                token = int(_next_tokens(model, new[None], cache, None, sample, [ids[start:]])[0][0])
                held = ids
                if token in ends:
                    return
                yield token
                new = np.array([token])
                ids = np.append(ids, token)
        finally:
            if held is not None:
                kept.give_back(cache, held)


def generate(
    model: GPT2LMHeadModel,
    prompts: Sequence[Sequence[int]],
    sample: Sample,
    max_new_tokens: int,
    end_id: EndIds,
    stop: StopStrings | None = None,
    penalise_prompt: bool = True,
) -> list[Generated]:
    """Continues prompts of any lengths together: each as `stream` would, until an end token or a stop string.

    A row that has ended leaves the batch. A greedy `sample` gives the ids that `stream` gives; one that draws, draws
    for the rows in turn. `penalise_prompt` and errors as of `stream`.
    """
    limits, ends = max_answer_tokens(prompts, max_new_tokens, model.config.n_positions), end_set(end_id)
    rows = [_Row(prompt, limit, stop) for prompt, limit in zip(prompts, limits, strict=True)]
    live = [row for row in rows if row.limit > 0]
    cache = KVCache()
    new, mask = pad_left([row.ids for row in live])
    with evaluating(model):
        while live:
            ids = [row.ids if penalise_prompt else row.ids[row.start :] for row in live]
            tokens, log_probs = _next_tokens(model, new, cache, mask, sample, ids, scored=True)
            for row, token, log_prob in zip(live, tokens.tolist(), log_probs.tolist(), strict=True):
                row.take(token, log_prob, ends)
            kept = np.flatnonzero([not row.finished for row in live])
            if len(kept):
                cache.select(kept)
            live, new, mask = [live[i] for i in kept], tokens[kept, None], None
    return [row.result() for row in rows]


def common_beginning(ids: np.ndarray, prompt: np.ndarray) -> int:
    """How many of the first ids are the same; at most all of the prompt but its last."""
    size = min(len(ids), len(prompt) - 1)
    differing = np.flatnonzero(ids[:size] != prompt[:size])
    return int(differing[0]) if len(differing) else size


def end_set(end_id: EndIds) -> frozenset[int]:
    """The end tokens, of which there may be one, several or none."""
    if end_id is None:
        return frozenset()
    return frozenset([end_id] if isinstance(end_id, numbers.Integral) else end_id)


def max_answer_tokens(prompts: Sequence[Sequence[int]], max_new_tokens: int, positions: int) -> list[int]:
    """How many tokens may follow each prompt. Raises UserError for an empty one and for one too long."""
    for i, prompt in enumerate(prompts):
        name = "the prompt" if len(prompts) == 1 else f"prompts[{i}]"
        if not len(prompt):
            raise UserError(f"{name} is empty; give it some text")
        if len(prompt) >= positions:
            raise UserError(f"{name} takes {len(prompt)} tokens; the model has {positions} positions: shorten it")
    return [min(max_new_tokens, positions - len(prompt)) for prompt in prompts]


def pad_left(prompts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Rows of ids as one array and its mask, [batch, longest] each. Pads are 0, which the mask hides."""
    longest = max(map(len, prompts), default=0)
    ids, mask = np.zeros((2, len(prompts), longest), np.int64)
    for i, prompt in enumerate(prompts):
        ids[i, longest - len(prompt) :] = prompt
        mask[i, longest - len(prompt) :] = 1
    return ids, mask


def _next_tokens(
    model: GPT2LMHeadModel, new: np.ndarray, cache: KVCache, mask, sample: Sample, ids, scored: bool = False
) -> tuple[np.ndarray, np.ndarray | None]:
    """The token after each row, int64 [batch], and where they are `scored` their log-probabilities, float32 [batch].

    new [batch, time] are the ids that the cache lacks, mask theirs or None, ids each row's so far, pads left out.
    """
    own = isinstance(sample, Sampler) and not sample.needs_ids  # else it is for the host, as any function is
    if not (own and fused.enabled_on_cuda("choose")):
        logits = last_logits(model, new, cache, mask)
        tokens = sample(logits, ids)
        return tokens, log_probs_of(tokens, logits) if scored else None
    how, uniforms = sample.choice, sample.uniforms(len(new))
    logits = logits_on_device(model, new, cache, mask)
    chosen = choose(logits, uniforms, how.temperature, how.top_k, how.top_p, how.min_p).numpy()
    if (chosen[:, 0] < 0).any():
        raise not_drawable()
    return chosen[:, 0].astype(np.int64), chosen[:, 1]


class _Row:
    """One prompt of a batch and what has followed it so far."""

    def __init__(self, prompt: Sequence[int], limit: int, stop: StopStrings | None):
        self.start, self.limit = len(prompt), limit
        self.ids = np.asarray(prompt, np.int64)
        self.watch = stop.watch() if stop else None
        self.pieces: list[str] = []
        self.ended = self.finished = False
        self.end_id: int | None = None
        self.log_prob, self.tokens = 0.0, 0

    def take(self, token: int, log_prob: float, ends: Collection[int]) -> None:
        """Takes up one token, which may be the last."""
        self.log_prob += log_prob
        self.tokens += 1
        if self.watch:
            piece, self.ended = self.watch.push(token)
            self.pieces.append(piece)
        if token in ends:
            self.ended, self.end_id = True, token
        else:
            self.ids = np.append(self.ids, token)
        self.finished = self.ended or self.tokens == self.limit

    def result(self) -> Generated:
        """What has followed the prompt; call it once, at the end: it takes what the stop strings held back."""
        text = "".join([*self.pieces, self.watch.flush()]) if self.watch else None
        ids = self.ids[self.start :].tolist()
        return Generated(ids, self.ended, self.log_prob, self.tokens, text, end_id=self.end_id)
