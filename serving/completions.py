"""POST /v1/completions: a prompt is continued as it stands, or, with `echo`, told how probable it is."""

import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from serving.answers import LENGTH, Answer, Delta, Scored, deltas, finished
from serving.generating import Asked, chosen, read_asked, submit, timed
from serving.jobs import Jobs
from serving.logprobs import MOST_TOP, of_completion
from serving.prompts import Prompt, check_generates, check_prompt_length, read_prompts
from serving.responses import Envelope, Json, Stream, usage
from serving.service import Service, while_connected
from serving.work import Scoring, Served, Token

DEFAULT_TOKENS = 16  # OpenAI's, where max_tokens is silent
OBJECT = "text_completion"


class Echo:
    """A prompt as the beginning of an answer's text: nothing where it is not asked for."""

    def __init__(self, prompt: Prompt, served: Served, tokens: list[Token] | None, wanted: bool):
        pieces = served.pieces
        ids = prompt.ids.tolist()
        self.text = "" if not wanted else pieces.text(ids) if prompt.text is None else prompt.text
        known = [Token(ids[0]), *tokens] if tokens is not None else []
        self.scored = [Scored(*pair) for pair in zip(known, pieces.offsets(ids), strict=False)] if known else []


async def completions(request: Request) -> Response:
    """The endpoint."""
    service: Service = request.app.state.service
    started = time.perf_counter()
    fields = await service.fields(request)
    served = service.named(fields)
    check_generates(served)
    given, most = fields.any("prompt", ""), service.most_work
    limit = fields.whole("max_tokens", most=served.positions, why="(all that the model reads)")
    top = fields.whole("logprobs", most=MOST_TOP)
    echo = fields.flag("echo")
    asked = read_asked(fields, served, most, top, best_of=True)
    fields.end()
    each = (asked.draws if limit != 0 else 0) + (echo and top is not None)  # pieces of work a prompt
    prompts = await service.encoded(request, read_prompts, "prompt", given, served, max(1, most // max(1, each)))
    for prompt in prompts:
        check_prompt_length("prompt", prompt, served.positions, 1 if limit is None else limit)
    tokens = served.tokens or DEFAULT_TOKENS
    limits = [min(tokens, served.positions - len(each.ids)) if limit is None else limit for each in prompts]
    with contextlib.ExitStack() as stack:
        jobs, scoring = stack.enter_context(service.jobs()), stack.enter_context(service.jobs())
        if limit == 0:
            answers = [[_nothing(asked) for _ in range(asked.draws)] for _ in prompts]
        else:
            ids, several = [prompt.ids for prompt in prompts], asked.draws > asked.count
            answers = submit(jobs, asked, ids, limits, keeps_space=True, scores_end=True, compared=several)
        if echo and top is not None:
            for index, prompt in enumerate(prompts):
                scoring.submit(index, Scoring(served.name, prompt.ids, top))
        run = _Run(service, asked, prompts, answers, echo, started)
        if asked.stream:
            return Stream(run.chunks(jobs, scoring), stack.pop_all().close)
        return Json(await while_connected(request, run.whole(jobs, scoring)))


def _nothing(asked: Asked) -> Answer:
    answer = Answer(asked.served, asked.stop, keeps_space=True, scores_end=True)
    answer.finish = LENGTH
    return answer


class _Run:
    """One request that is being answered."""

    def __init__(
        self,
        service: Service,
        asked: Asked,
        prompts: list[Prompt],
        answers: list[list[Answer]],
        echo: bool,
        started: float,
    ):
        self.service, self.asked, self.prompts, self.answers = service, asked, prompts, answers
        self.echo, self.started = echo, started
        self.pieces = asked.served.pieces
        self.said = Envelope("cmpl", OBJECT, asked.served.name)

    async def whole(self, jobs: Jobs, scoring: Jobs) -> dict[str, Any]:
        """The answer at once."""
        echoes = await self._echoes(scoring)
        await finished(jobs, self._open)
        choices = []
        for echo, group in zip(echoes, self.answers, strict=True):
            for answer in chosen([group], self.asked.count):
                whole = Delta(answer.text, answer.scored, answer.finish)
                choices.append(self._choice(len(choices), whole, echo, echo))
        return self.said.around(choices, usage=self._usage())

    async def chunks(self, jobs: Jobs, scoring: Jobs) -> AsyncIterator[dict[str, Any]]:
        """The answer piece by piece; a prompt that is to be echoed is the first piece of each."""
        more = {"usage": None} if self.asked.with_usage else {}
        echoes = [echo for echo in await self._echoes(scoring) for _ in range(self.asked.draws)]
        if self.echo:
            for index, echo in enumerate(echoes):
                yield self.said.around([self._choice(index, Delta(), echo, echo)], **more)
        answers = [answer for group in self.answers for answer in group]
        for index, answer in enumerate(answers):
            if answer.finish:
                yield self.said.around([self._choice(index, Delta(finish=answer.finish), echoes[index])], **more)
        async for index, delta in timed(deltas(jobs, self._open), self.service, self.started):
            if delta.text or delta.scored or delta.finish:
                yield self.said.around([self._choice(index, delta, echoes[index])], **more)
        if self.asked.with_usage:
            yield self.said.around([], usage=self._usage())

    @property
    def _open(self) -> list[Answer]:
        """The answers for which there is work, by their numbers."""
        return [answer for group in self.answers for answer in group if answer.finish is None]

    async def _echoes(self, scoring: Jobs) -> list[Echo]:
        found = await scoring.results()
        served = self.asked.served
        return [Echo(each, served, found.get(index), self.echo) for index, each in enumerate(self.prompts)]

    def _choice(self, index: int, delta: Delta, prompt: Echo, shown: Echo | None = None) -> dict[str, Any]:
        """One choice, with what is `shown` of its prompt before it."""
        logprobs = None
        if self.asked.top is not None:
            logprobs = of_completion(delta.scored, self.asked.top, self.pieces, len(prompt.text))
            before = of_completion(shown.scored if shown else [], self.asked.top, self.pieces)
            logprobs = {name: before[name] + logprobs[name] for name in logprobs}
        text = (shown.text if shown else "") + delta.text
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": delta.finish}

    def _usage(self) -> dict[str, Any]:
        written = sum(answer.tokens for group in self.answers for answer in group)
        kept = sum(group[0].kept for group in self.answers)
        return usage(sum(len(prompt.ids) for prompt in self.prompts), written, kept)
