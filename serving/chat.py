"""POST /v1/chat/completions: messages are answered as the model's task was trained to answer."""

import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from serving.answers import Answer, Delta, deltas, finished
from serving.body import Fields
from serving.errors import invalid
from serving.generating import Asked, chosen, read_asked, submit, timed
from serving.jobs import Jobs
from serving.logprobs import MOST_TOP, of_chat
from serving.prompts import TOO_LONG, read_messages, task_of
from serving.responses import Envelope, Json, Stream, usage
from serving.service import Service, while_connected
from serving.work import Served


async def chat(request: Request) -> Response:
    """The endpoint."""
    service: Service = request.app.state.service
    started = time.perf_counter()
    fields = await service.fields(request)
    served = service.named(fields)
    keeps_space = task_of(served).kind.keeps_space
    messages = fields.any("messages")
    limit, top = _limit(fields, served), _top(fields)
    asked = read_asked(fields, served, service.most_work, top)
    fields.end()
    windows = await service.encoded(request, read_messages, messages, served, limit)
    if len(windows) * asked.count > service.most_work:
        raise invalid("messages", f"are read in {len(windows)} windows, {asked.count} times: shorten them", TOO_LONG)
    limits = [min(limit or served.tokens or served.max_length, served.max_length - len(ids)) for ids in windows]
    if min(limits) < 1:
        raise invalid("messages", f"leave no room for an answer: the model reads {served.max_length} tokens", TOO_LONG)
    with contextlib.ExitStack() as stack:
        jobs = stack.enter_context(service.jobs())
        how = {"keeps_space": keeps_space, "scores_end": False, "compared": len(windows) > 1}
        answers = submit(jobs, asked, windows, limits, **how)
        run = _Run(service, asked, windows, answers, started)
        if asked.stream:
            return Stream(run.chunks(jobs), stack.pop_all().close)
        return Json(await while_connected(request, run.whole(jobs)))


def _limit(fields: Fields, served: Served) -> int | None:
    """The longest answer that is asked for; both of its names are in use."""
    names = ("max_completion_tokens", "max_tokens")
    why = "(all that the model reads)"
    given = [fields.whole(name, least=1, most=served.max_length, why=why) for name in names]
    if None not in given and given[0] != given[1]:
        raise invalid("max_tokens", "and max_completion_tokens say the same: give one")
    return next((limit for limit in given if limit is not None), None)


def _top(fields: Fields) -> int | None:
    wanted, top = fields.flag("logprobs"), fields.whole("top_logprobs", most=MOST_TOP)
    if top is not None and not wanted:
        raise invalid("top_logprobs", "needs logprobs: true")
    return (top or 0) if wanted else None


class _Run:
    """One request that is being answered. An answer is the likeliest one of those to its windows, most often one."""

    def __init__(
        self, service: Service, asked: Asked, windows: list[np.ndarray], answers: list[list[Answer]], started: float
    ):
        self.service, self.asked, self.windows, self.started = service, asked, windows, started
        self.all = [answer for group in answers for answer in group]
        self.groups = list(zip(*answers, strict=True))  # of each choice, an answer a window
        self.pieces = asked.served.pieces

    async def whole(self, jobs: Jobs) -> dict[str, Any]:
        """The answer at once."""
        await finished(jobs, self.all)
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": answer.text, "refusal": None},
                "logprobs": self._logprobs(answer.scored),
                "finish_reason": answer.finish,
            }
            for index, answer in enumerate(chosen(self.groups, 1))
        ]
        return Envelope("chatcmpl", "chat.completion", self.asked.served.name).around(choices, usage=self._usage())

    async def chunks(self, jobs: Jobs) -> AsyncIterator[dict[str, Any]]:
        """The answer piece by piece: first who speaks, last why it ends."""
        said = Envelope("chatcmpl", "chat.completion.chunk", self.asked.served.name)
        more = {"usage": None} if self.asked.with_usage else {}
        for index in range(self.asked.count):
            yield said.around([_chunk(index, {"role": "assistant", "content": ""})], **more)
        async for index, delta in timed(self._deltas(jobs), self.service, self.started):
            if delta.text or (delta.scored and self.asked.top is not None):
                yield said.around([_chunk(index, {"content": delta.text}, self._logprobs(delta.scored))], **more)
            if delta.finish:
                yield said.around([_chunk(index, {}, None, delta.finish)], **more)
        if self.asked.with_usage:
            yield said.around([], usage=self._usage())

    async def _deltas(self, jobs: Jobs) -> AsyncIterator[tuple[int, Delta]]:
        if len(self.windows) == 1:
            async for index, delta in deltas(jobs, self.all):
                yield index, delta
            return
        await finished(jobs, self.all)  # which window's is the likeliest is known at the end
        for index, answer in enumerate(chosen(self.groups, 1)):
            yield index, Delta(answer.text, answer.scored, answer.finish)

    def _logprobs(self, scored: list) -> dict[str, Any] | None:
        return None if self.asked.top is None else of_chat(scored, self.asked.top, self.pieces)

    def _usage(self) -> dict[str, Any]:
        kept = sum(answer.kept for answer in self.groups[0])
        return usage(sum(map(len, self.windows)), sum(answer.tokens for answer in self.all), kept)


def _chunk(index: int, delta: dict, logprobs: dict | None = None, finish: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
