"""What completions and chats have in common: the options of an answer, its work, and the choice among several."""

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from serving.answers import Answer, likeliest
from serving.body import Fields, kind, short_text
from serving.choosing import Choosing, read_choosing
from serving.errors import invalid
from serving.jobs import Jobs
from serving.service import Service
from serving.work import Continuation, Served

Item = TypeVar("Item")
MOST_STOPS, LONGEST_STOP = 16, 256  # stop strings, and characters of one: each token is compared with all of them


@dataclass(frozen=True)
class Asked:
    """How answers are wanted: so many `count` of so many `draws`, with the `top` likeliest tokens (None: without)."""

    served: Served
    choosing: Choosing
    stop: tuple[str, ...]
    count: int
    draws: int
    top: int | None
    stream: bool
    with_usage: bool


def read_asked(fields: Fields, served: Served, most: int, top: int | None, best_of: bool = False) -> Asked:
    """Takes out what completions and chats both have; of `top` and of `best_of` each has its own. Raises ApiError."""
    count = fields.whole("n", 1, least=1, most=most, why="here")
    draws = fields.whole("best_of", count, least=1, most=most, why="here") if best_of else count
    stream = fields.flag("stream")
    if draws < count:
        raise invalid("best_of", f"must be at least n, {count}, not {draws}")
    if draws > count and stream:
        raise invalid("best_of", "the likeliest is known at the end only: leave out stream")
    with_usage = _with_usage(fields, stream)
    return Asked(served, read_choosing(fields, served), _stop(fields), count, draws, top, stream, with_usage)


def submit(
    jobs: Jobs,
    asked: Asked,
    prompts: Sequence[np.ndarray],
    limits: Sequence[int],
    *,
    keeps_space: bool,
    scores_end: bool,
    compared: bool,
) -> list[list[Answer]]:
    """Hands over `draws` continuations of each prompt, under numbers in order; their answers, prompt by prompt.

    `limits`: the longest answer to each. `compared`: the likeliest of several will be wanted. The rest is `Answer`'s.
    """
    served = asked.served
    ends = served.options.end_ids
    end_ids = frozenset((served.tokenizer.eos_token_id,) if ends is None else ends)
    top = 0 if asked.top is None and compared else asked.top
    found: list[list[Answer]] = []
    for index, (ids, limit) in enumerate(zip(prompts, limits, strict=True)):
        found.append([Answer(served, asked.stop, keeps_space, scores_end) for _ in range(asked.draws)])
        for draw in range(asked.draws):
            sample = asked.choosing.sampler(len(ids), draw)
            work = Continuation(served.name, ids, limit, sample, end_ids, top, not served.task.kind.repeats_prompt)
            jobs.submit(index * asked.draws + draw, work)
    return found


async def timed(deltas: AsyncIterator[Item], service: Service, started: float) -> AsyncIterator[Item]:
    """The same, and how long it took to the first is counted. `started`: of `time.perf_counter`."""
    first = True
    async for each in deltas:
        if first:
            service.metrics.first_token.observe(time.perf_counter() - started)
            first = False
        yield each


def chosen(answers: Sequence[Sequence[Answer]], count: int) -> list[Answer]:
    """The `count` likeliest of each group, in the groups' order; all of a group that has no more, in their order."""
    return [each for group in answers for each in (group if len(group) == count else likeliest(group, count))]


def _with_usage(fields: Fields, stream: bool) -> bool:
    given = fields.any("stream_options")
    if given is None:
        return False
    if not stream:
        raise invalid("stream_options", "says something of streams alone: leave it out, or ask for stream")
    if not isinstance(given, dict):
        raise invalid("stream_options", f"must be an object, not {kind(given)}")
    options = Fields(given)
    wanted = options.flag("include_usage")
    options.flag("include_obfuscation")  # padding that hides lengths on the wire: leave it out, one may
    options.end()
    return wanted


def _stop(fields: Fields) -> tuple[str, ...]:
    given = fields.any("stop", [])
    several = [given] if isinstance(given, str) else given
    if not isinstance(several, list) or not all(isinstance(each, str) for each in several):
        raise invalid("stop", "must be a text or a list of texts")
    if len(several) > MOST_STOPS:
        raise invalid("stop", f"must be at most {MOST_STOPS} texts, not {len(several)}")
    if wrong := [each for each in several if not 0 < len(each) <= LONGEST_STOP]:
        raise invalid("stop", f"must be texts of 1 to {LONGEST_STOP} characters, not {short_text(wrong[0])!r}")
    return tuple(several)
