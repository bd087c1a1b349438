"""A server that answers as OpenAI's API does, with texts that are known before, for tests of the chat page."""

import asyncio
import base64
import hashlib
import json
import math
import re
import socket
import threading
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from places import ROOT
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

PAGE = ROOT / "serving" / "page.html"
LABELS = ["sadness", "joy", "love"]
PROBABILITIES = [0.25, 0.6875, 0.0625]
LIKELIEST = {" tea": 0.25, " milk": 0.125, " water": 0.0625, " it": 0.03125}  # beside each token, which has CHOSEN
CHOSEN = 0.5


def described(name: str, kind: str, task: str, fields: list[str], parent: str | None = "gpt2") -> dict[str, Any]:
    """A model in the form of `/v1/models`."""
    labels = LABELS if kind == "classify" else []
    about = {"kind": kind, "task": task, "fields": fields, "labels": labels, "max_model_len": 1024}
    return {"id": name, "object": "model", "created": 0, "owned_by": "x", "root": "gpt2", "parent": parent} | about


MODELS = [
    described("gpt2", "text", "text", ["prompt"], parent=None),
    described("talker", "chat", "dailydialog", ["prompt"]),
    described("helper", "chat", "chat", ["system", "prompt"]),
    described("reader", "qa", "squad", ["context", "question"]),
    described("worker", "instruct", "dolly", ["instruction", "context"]),
    described("mood", "classify", "emotion", ["text"]),
    described("entails", "classify", "rte", ["sentence1", "sentence2"]),
]


class ChatServer:
    """Answers with `answers[what was asked]`, else `NAME heard: what was asked`; on a port of this machine.

    `delay` is in seconds, before each token. `key`: what requests must bear. `failures`: (status, message) of the next
    requests for an answer; with a status of 0 it breaks off in the middle, and an event says so. `bodies` are those of
    the requests for answers, in order; `left` counts clients that went before the end.
    """

    def __init__(self):
        self.answers: dict[str, str] = {}
        self.delay, self.key = 0.0, None
        self.failures: list[tuple[int, str]] = []
        self.bodies: list[dict[str, Any]] = []
        self.left = 0
        routes = [Route("/", self.page), Route("/v1/models", self.models)]
        for path in ("chat/completions", "completions", "classify"):
            routes.append(Route(f"/v1/{path}", self.answer, methods=["POST"]))
        config = uvicorn.Config(
            Starlette(routes=routes), log_level="error", lifespan="off", timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def __enter__(self):
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],))
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()

    async def page(self, request: Request) -> Response:
        """The page, under the rules that the real server gives it."""
        text = PAGE.read_text(encoding="utf-8")
        rules = "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'"
        for kind, content in re.findall(r"<(script|style)\b[^>]*>(.*?)</\1>", text, re.DOTALL):
            digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
            rules += f"; {kind}-src 'sha256-{digest}'"
        return HTMLResponse(text, headers={"Content-Security-Policy": rules})

    async def models(self, request: Request) -> Response:
        """The list of models."""
        return self.refused(request) or JSONResponse({"object": "list", "data": MODELS})

    async def answer(self, request: Request) -> Response:
        """An answer, as a stream or, of a classifier, at once."""
        body = await request.json()
        if refused := self.refused(request):
            return refused
        self.bodies.append(body)
        failure = self.failures.pop(0) if self.failures else None
        if failure and failure[0]:
            return wrong(*failure)
        if request.url.path.endswith("classify"):
            data = {"index": 0, "label": "joy", "probs": PROBABILITIES, "labels": LABELS, "num_classes": 3}
            return JSONResponse({"object": "list", "data": [data]})
        asked = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
        text = self.answers.get(asked, f"{body['model']} heard: {asked}")
        events = self.events(chunks(body, text), failure and failure[1])
        return StreamingResponse(events, media_type="text/event-stream")

    def refused(self, request: Request) -> Response | None:
        """A 401 for a request without the key."""
        if self.key is None or request.headers.get("authorization") == f"Bearer {self.key}":
            return None
        return wrong(401, "a wrong API key, or none")

    async def events(self, chunks: list[dict[str, Any]], failure: str | None) -> AsyncIterator[bytes]:
        """The chunks as server-sent events, each in two parts that end anywhere, within a character too."""
        ended = False
        try:
            yield b": a comment\r\n\r\n"
            for chunk in chunks[: len(chunks) // 2] if failure else chunks:
                await asyncio.sleep(self.delay)
                data = f"data: {json.dumps(chunk, ensure_ascii=False)}\r\n\r\n".encode()
                yield data[: len(data) // 2]
                yield data[len(data) // 2 :]
            if failure:
                yield b'data: {"error": {"message": "%s"}}\n\n' % failure.encode()
            yield b"data: [DONE]\r\n\r\n"
            ended = True
        finally:
            self.left += not ended


def wrong(status: int, message: str) -> Response:
    """An error in the API's form."""
    return JSONResponse({"error": {"message": message, "type": "x", "param": None, "code": None}}, status)


def chunks(body: dict[str, Any], text: str) -> list[dict[str, Any]]:
    """A streamed answer's objects: who speaks, a token at a time, why it ends, what was used."""
    pieces = re.findall(r"\s*\S+|\s+", text)
    limit = body.get("max_tokens", math.inf)
    finish = "stop" if len(pieces) <= limit else "length"
    pieces = pieces[: min(len(pieces), limit)]
    if "messages" in body:
        choices = [{"delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}]
        choices += [{"delta": {"content": p}, "logprobs": {"content": [chat_token(p)]}} for p in pieces]
        choices += [{"delta": {}, "logprobs": None, "finish_reason": finish}]
    else:
        choices = [{"text": piece, "logprobs": completion_token(piece)} for piece in pieces]
        choices += [{"text": "", "logprobs": None, "finish_reason": finish}]
    said = [{"id": "x-1", "model": body["model"], "choices": [{"index": 0} | choice]} for choice in choices]
    usage = {"prompt_tokens": 1, "completion_tokens": len(pieces), "total_tokens": 1 + len(pieces)}
    return [*said, {"id": "x-1", "model": body["model"], "choices": [], "usage": usage}]


def chat_token(token: str) -> dict[str, Any]:
    """A token's probabilities in the form of chats."""
    named = [
        {"token": name, "logprob": math.log(share), "bytes": list(name.encode())}
        for name, share in {token: CHOSEN, **LIKELIEST}.items()
    ]
    return named[0] | {"top_logprobs": named}


def completion_token(token: str) -> dict[str, Any]:
    """The same in the form of completions."""
    top = {name: math.log(share) for name, share in {token: CHOSEN, **LIKELIEST}.items()}
    return {"tokens": [token], "token_logprobs": [math.log(CHOSEN)], "top_logprobs": [top], "text_offset": [0]}
