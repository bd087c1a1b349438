"""What the HTTP side asks of the side that computes, and what comes back. Needs no Jittor.

Two threads: requests are read and answered in one, by asyncio; the other computes, and never waits for a client. Work
is handed over by `Computing.submit`, and what comes of it by a function that must return at once.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from datasets.task import Task
from generation.options import GenerationOptions
from generation.sampling import Sample
from generation.token import END, LENGTH, Token
from serving.pieces import Pieces

__all__ = ["END", "LENGTH", "Token"]  # part of the border, though they are made below it


@dataclass(frozen=True)
class Served:
    """A model that requests can name: the base, or an adapter on it.

    `task`: whose prompts it was trained on; text that is continued, where that is not known. `options`: how tokens are
    chosen where a request does not say; their `end_ids` end an answer. `positions`: all that the model can read;
    `max_length`: a prompt and its answer, as in training. `parent`: the base's name; None of the base. `created` is in
    Unix seconds. `tokens`: of an answer at most, where a request does not say and the model's `generation_config.json`
    does. A task whose kind does not generate is a classifier's.
    """

    name: str
    task: Task
    tokenizer: Any
    options: GenerationOptions
    positions: int
    max_length: int
    vocab_size: int
    parent: str | None
    created: int
    tokens: int | None = None

    @functools.cached_property
    def pieces(self) -> Pieces:
        """The tokens of its tokenizer."""
        return Pieces(self.tokenizer)


@dataclass(frozen=True)
class Continuation:
    """Tokens that follow a prompt, int64 [time]: a `Token` at a time, the last of which says why it is the last.

    `sample` chooses them, for this text alone. `top`: None where no log-probability is asked for, else how many of the
    likeliest tokens come beside the chosen one's own. `penalise_prompt`: as of `Text`.
    """

    model: str
    prompt: np.ndarray
    max_tokens: int
    sample: Sample
    end_ids: frozenset[int]
    top: int | None = None
    penalise_prompt: bool = True


@dataclass(frozen=True)
class Scoring:
    """How probable each token of a text is after those before it, but the first: a list of `Token`."""

    model: str
    ids: np.ndarray
    top: int = 0


@dataclass(frozen=True)
class Embedding:
    """The mean of the last hidden states of a text, float32 [width]."""

    model: str
    ids: np.ndarray


@dataclass(frozen=True)
class Classification:
    """A classifier's probability of each of its task's labels, float64 [labels]."""

    model: str
    ids: np.ndarray


@dataclass(frozen=True)
class Loading:
    """An adapter's folder is read and served under a name: its `Served`."""

    name: str
    folder: Path


@dataclass(frozen=True)
class Unloading:
    """An adapter is served no more, once what it has begun is finished: None."""

    name: str


Work = Continuation | Scoring | Embedding | Classification | Loading | Unloading


class Busy(Exception):
    """So much is waiting that no more is taken; `retry_after` is in seconds."""

    def __init__(self, retry_after: int):
        super().__init__(f"too many requests are waiting: try again in {retry_after} s")
        self.retry_after = retry_after


class Stopped(Exception):
    """The server ends, and computes no more: what was taken and is not finished is told so."""


class Ticket(Protocol):
    """Work that was taken."""

    def cancel(self) -> None:
        """Nothing more of it is computed or delivered, from the next token on. Harmless where it is done."""


@dataclass(frozen=True)
class Figures:
    """What is going on: rows that are being continued, work that waits, and counts since the start."""

    running: int
    waiting: int
    prompt_tokens: int
    cached_tokens: int  # of the prompts': not computed again
    generated_tokens: int
    steps: int


class Computing(Protocol):
    """The side that computes, as the HTTP side sees it; every method may be called from any thread."""

    @property
    def models(self) -> Mapping[str, Served]:
        """What is served now, by name, the base first."""

    def submit(self, work: Work, deliver: Callable[[Any], None]) -> Ticket:
        """Takes up work. `deliver` is called in the computing thread: with each `Token` of a continuation, else once
        with the result; with an exception where it fails: a UserError where the request is at fault, Stopped where
        the server ends, else what was an error of ours, which has been reported.

        Raises Busy.
        """

    def figures(self) -> Figures:
        """What is going on."""
