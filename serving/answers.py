"""Answers that come into being: tokens in, text that is certain out, with what each token's probability was."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from generation.stopping import Stopper
from gpt2_jittor.checkpoint.tokenizer import TextStream
from serving.jobs import Jobs
from serving.pieces import Offset
from serving.work import END, Served, Token

STOP, LENGTH = "stop", "length"  # OpenAI's reasons to finish


@dataclass(frozen=True)
class Scored:
    """A token of a text, and where it begins in the text."""

    token: Token
    offset: int


@dataclass
class Delta:
    """What is new and certain of an answer; `finish` is there once it is whole."""

    text: str = ""
    scored: list[Scored] = field(default_factory=list)
    finish: str | None = None


class Answer:
    """One answer. It ends with the model's end token, before a stop string, or where it may not grow.

    `keeps_space`: else there is no space around its text. `scores_end`: a special end token, which is no text, is in
    `scored`, too. `text`, `scored` and `finish` are what was given out so far; `tokens` counts what was computed, an
    end token included; `log_prob` is the sum of their log-probabilities.
    """

    def __init__(self, served: Served, stop: Sequence[str], keeps_space: bool, scores_end: bool = False):
        self._stream, self._stopper = TextStream(served.tokenizer), Stopper(stop)
        self._offset = Offset(served.pieces)
        self._special = frozenset(served.tokenizer.all_special_ids)
        self._keeps_space, self._scores_end = keeps_space, scores_end
        self._waiting: list[Scored] = []  # whose text is not certain yet
        self._certain = 0  # characters before any stop string
        self._space = ""  # that ends what is certain: it is shown once more follows
        self.text, self.scored, self.finish = "", [], None
        self.tokens, self.kept, self.log_prob = 0, 0, 0.0

    @property
    def score(self) -> float:
        """The mean log-probability of its tokens, by which the likeliest of several is chosen."""
        return self.log_prob / max(1, self.tokens)

    def push(self, token: Token) -> Delta:
        """Takes the next token; what is certain now."""
        self.tokens += 1
        self.kept += token.kept
        self.log_prob += token.log_prob or 0.0
        is_text = token.ends != END or token.id not in self._special  # an end token may be text, too
        if is_text or self._scores_end:
            self._waiting.append(Scored(token, self._offset.characters))
        if token.id not in self._special:
            self._offset.move(token.id)
        certain, stopped = self._stopper.push(self._stream.push(token.id))
        if token.ends and not stopped:
            rest, stopped = self._stopper.push(self._stream.flush())
            certain += rest + ("" if stopped else self._stopper.flush())
        self._certain += len(certain)
        if token.ends or stopped:
            self.finish = STOP if stopped or token.ends == END else LENGTH
        delta = Delta(self._without_space(certain), self._now_certain(stopped), self.finish)
        self.text += delta.text
        self.scored += delta.scored
        return delta

    def _now_certain(self, stopped: bool) -> list[Scored]:
        """The tokens that begin in what is certain; at the end all of them, but for those behind a stop string."""
        whole = self.finish is not None and not stopped
        found = [each for each in self._waiting if whole or each.offset < self._certain]
        self._waiting = [each for each in self._waiting if not (whole or each.offset < self._certain)]
        return found

    def _without_space(self, text: str) -> str:
        if self._keeps_space:
            return text
        text = self._space + text if self.text else text.lstrip()
        shown = text.rstrip()
        self._space = text[len(shown) :] if shown or self.text else ""
        return shown


async def deltas(jobs: Jobs, answers: Sequence[Answer]) -> AsyncIterator[tuple[int, Delta]]:
    """The index of an answer and what is new of it, until all are whole; their work was submitted by their indexes."""
    left = len(answers)
    while left:
        index, token = await jobs.next()
        if answers[index].finish is None:
            delta = answers[index].push(token)
            if delta.finish:
                jobs.cancel(index)
                left -= 1
            yield index, delta


async def finished(jobs: Jobs, answers: Sequence[Answer]) -> None:
    """Waits until all are whole."""
    async for _ in deltas(jobs, answers):
        pass


def likeliest(answers: Sequence[Answer], count: int) -> list[Answer]:
    """The `count` likeliest of several, the likeliest first; equal ones in their order."""
    return sorted(answers, key=lambda answer: -answer.score)[:count]
