"""A text that is continued: what chooses its tokens, what ends it, and what came of it. Needs no Jittor.

Whoever continues texts, the command line, evaluation or the server, decides about a token here.
"""

import dataclasses
import numbers
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from common.errors import UserError
from generation.sampling import Sample
from generation.stopping import StoppedText
from generation.token import END, LENGTH, Token, described

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


class Text:
    """A prompt, what follows it, and what decides that.

    ids, int64, grow by each token but an end token; `left` more tokens may follow. sample: what chooses each, for this
    text alone if it draws; without `penalise_prompt` it sees the ids behind the prompt alone. adapter: that of its
    rows. top: as of `token.described`. shown: takes up the tokens as text, and ends it at a stop string; `pieces` are
    then what each token made certain.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        sample: Sample,
        limit: int,
        ends: Collection[int],
        *,
        adapter: str | None = None,
        top: int | None = None,
        shown: StoppedText | None = None,
        penalise_prompt: bool = True,
    ):
        self.ids, self.start = np.asarray(prompt, np.int64), len(prompt)
        self.sample, self.left, self.ends, self.adapter, self.top = sample, limit, ends, adapter, top
        self.shown, self.pieces = shown, [] if shown else None
        self.kept = 0  # how much of the prompt was known from before; the first token says it
        self._seen_from = 0 if penalise_prompt else self.start
        self._log_prob, self._tokens = 0.0, 0
        self._ended, self._end_id = False, None

    @property
    def prompt(self) -> np.ndarray:
        """What is continued, int64 [time]."""
        return self.ids[: self.start]

    def next(self, logits: np.ndarray) -> Token:
        """Chooses the next token from float32 [vocab], and takes it up. Raises UserError where none can be chosen."""
        chosen = int(self.sample(logits[None], [self.ids[self._seen_from :]])[0])
        return self.take(described(chosen, logits, self.top))

    def take(self, token: Token) -> Token:
        """Takes up a token that was chosen; returns it, with `kept`, and why the text ends if it is the last."""
        self.left -= 1
        self._tokens += 1
        self._log_prob += token.log_prob or 0.0
        stopped = self._show(token.id)
        if token.id in self.ends:
            self._end_id = token.id
        else:
            self.ids = np.append(self.ids, token.id)
        self._ended = stopped or self._end_id is not None
        ends = END if self._ended else None if self.left > 0 else LENGTH
        if ends and self.shown:
            self.pieces[-1] += self.shown.flush()
        kept, self.kept = self.kept, 0
        return dataclasses.replace(token, ends=ends, kept=kept)

    def result(self) -> Generated:
        """What has followed the prompt."""
        said = "".join(self.pieces) if self.shown else None
        ids = self.ids[self.start :].tolist()
        return Generated(ids, self._ended, self._log_prob, self._tokens, said, end_id=self._end_id)

    def _show(self, token: int) -> bool:
        """Whether a stop string was reached."""
        if not self.shown:
            return False
        piece, stopped = self.shown.push(token)
        self.pieces.append(piece)
        return stopped


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
