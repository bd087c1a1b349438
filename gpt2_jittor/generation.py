"""Text, one token at a time, with a cache of keys and values: one prompt as a stream, or a batch of prompts."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from common.errors import UserError
from gpt2_jittor.cache import KVCache
from gpt2_jittor.decoding import last_logits
from gpt2_jittor.model import GPT2LMHeadModel
from gpt2_jittor.sampling import Sampler, log_probs_of
from gpt2_jittor.stopping import StopStrings


@dataclass(frozen=True)
class Generated:
    """What was generated after one prompt, and how probable the model finds it."""

    ids: list[int]  # without the end token, with the tokens of a stop string
    ended: bool  # by the end token or a stop string; else the tokens or the positions ran out
    log_prob: float  # of all tokens together, in nats: the model's own, whatever options chose among them
    tokens: int  # counted in log_prob: the ids, and the end token where it was reached
    text: str | None = None  # where there were stop strings: the decoded ids up to the one that was reached
    beam_score: float | None = None  # of a beam search: what it ranks by

    @property
    def score(self) -> float:
        """The mean log-probability of a token; 0 where there is none."""
        return self.log_prob / max(self.tokens, 1)


def stream(
    model: GPT2LMHeadModel, prompt: Sequence[int], sample: Sampler, max_new_tokens: int, end_id: int | None
) -> Iterator[int]:
    """Yields the ids that follow `prompt`, until `end_id` (not yielded), `max_new_tokens` or the last position.

    Raises UserError for an empty prompt and for one that leaves no position free.
    """
    (limit,) = room([prompt], max_new_tokens, model.config.n_positions)
    with evaluating(model):
        cache, ids, new = KVCache(), np.asarray(prompt, np.int64), np.asarray(prompt, np.int64)
        for _ in range(limit):
            token = int(sample(last_logits(model, new[None], cache), [ids])[0])
            if token == end_id:
                return
            yield token
            new = np.array([token])
            ids = np.append(ids, token)


def generate(
    model: GPT2LMHeadModel,
    prompts: Sequence[Sequence[int]],
    sample: Sampler,
    max_new_tokens: int,
    end_id: int | None,
    stop: StopStrings | None = None,
) -> list[Generated]:
    """Continues prompts of any lengths together: each as `stream` would, until one of its ends or a stop string.

    A row that has ended leaves the batch. A greedy `sample` gives the ids that `stream` gives; one that draws, draws
    for the rows in turn. Errors as of `stream`.
    """
    limits = room(prompts, max_new_tokens, model.config.n_positions)
    rows = [_Row(prompt, limit, stop) for prompt, limit in zip(prompts, limits, strict=True)]
    live = [row for row in rows if row.limit > 0]
    cache = KVCache()
    new, mask = pad_left([row.ids for row in live])
    with evaluating(model):
        while live:
            logits = last_logits(model, new, cache, mask)
            tokens = sample(logits, [row.ids for row in live])
            log_probs = log_probs_of(tokens, logits)
            for row, token, log_prob in zip(live, tokens.tolist(), log_probs.tolist(), strict=True):
                row.take(token, log_prob, end_id)
            kept = np.flatnonzero([not row.finished for row in live])
            if len(kept):
                cache.select(kept)
            live, new, mask = [live[i] for i in kept], tokens[kept, None], None
    return [row.result() for row in rows]


def room(prompts: Sequence[Sequence[int]], max_new_tokens: int, positions: int) -> list[int]:
    """How many tokens may follow each prompt. Raises UserError for an empty prompt and one that leaves no room."""
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


@contextlib.contextmanager
def evaluating(model: GPT2LMHeadModel) -> Iterator[None]:
    """Dropout is off within; then the model is in the mode in which it was."""
    training = model.is_training()
    model.eval()
    try:
        yield
    finally:
        if training:
            model.train()


class _Row:
    """One prompt of a batch and what has followed it so far."""

    def __init__(self, prompt: Sequence[int], limit: int, stop: StopStrings | None):
        self.start, self.limit = len(prompt), limit
        self.ids = np.asarray(prompt, np.int64)
        self.watch = stop.watch() if stop else None
        self.pieces: list[str] = []
        self.ended = self.finished = False
        self.log_prob, self.tokens = 0.0, 0

    def take(self, token: int, log_prob: float, end_id: int | None) -> None:
        """Takes up one token, which may be the last."""
        self.log_prob += log_prob
        self.tokens += 1
        if token == end_id:
            self.ended = True
        else:
            self.ids = np.append(self.ids, token)
            if self.watch:
                piece, self.ended = self.watch.push(token)
                self.pieces.append(piece)
        self.finished = self.ended or self.tokens == self.limit

    def result(self) -> Generated:
        text = "".join([*self.pieces, self.watch.flush()]) if self.watch else None
        return Generated(self.ids[self.start :].tolist(), self.ended, self.log_prob, self.tokens, text)
