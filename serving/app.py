"""The HTTP API: which path is answered by what, and in which form errors are told."""

import base64
import hashlib
import re

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from common.errors import UserError
from serving import catalog, tokens, vectors
from serving.chat import chat
from serving.completions import completions
from serving.errors import ApiError, api_error
from serving.guard import Guard, Watch, refused
from serving.service import Service
from serving.work import Busy

GONE = 499  # nginx's status for a client that went: nobody reads it, but /metrics counts it
INLINE = re.compile(r"<(script|style)\b[^>]*>(.*?)</\1>", re.DOTALL)
FORBIDDEN = "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
FORBIDDEN += "frame-ancestors 'none'"

ROUTES = [
    Route("/v1/chat/completions", chat, methods=["POST"]),
    Route("/v1/completions", completions, methods=["POST"]),
    Route("/v1/embeddings", vectors.embeddings, methods=["POST"]),
    Route("/v1/classify", vectors.classify, methods=["POST"]),
    Route("/v1/models", catalog.models),
    Route("/v1/models/{name:path}", catalog.model),
    Route("/v1/adapters", catalog.load_adapter, methods=["POST"]),
    Route("/v1/adapters/{name:path}", catalog.unload_adapter, methods=["DELETE"]),
    Route("/tokenize", tokens.tokenize, methods=["POST"]),
    Route("/detokenize", tokens.detokenize, methods=["POST"]),
    Route("/health", catalog.health),
    Route("/metrics", catalog.metrics),
]


def build(service: Service) -> ASGIApp:
    """The whole server as an ASGI app."""
    handlers = {
        HTTPException: _refusal,
        ApiError: _error,
        UserError: _error,
        Busy: _error,
        ClientDisconnect: _gone,
        Exception: _error,
    }
    app = Starlette(routes=[*ROUTES, Route("/", _page(service))], exception_handlers=handlers)
    app.router.redirect_slashes = False
    app.state.service = service
    guarded: ASGIApp = Guard(app, service)
    if service.options.cors:
        methods = ["GET", "POST", "DELETE"]
        guarded = CORSMiddleware(guarded, service.options.cors, allow_methods=methods, allow_headers=["*"])
    return Watch(guarded, service, tuple(route.path for route in app.routes))


async def _error(request: Request, error: Exception) -> Response:
    return refused(api_error(error))


async def _refusal(request: Request, error: HTTPException) -> Response:
    """A path or a method that is not there."""
    said = {404: f"there is no {request.url.path}"[:200], 405: f"{request.method} is not for this path"[:200]}
    message = said.get(error.status_code, str(error.detail))
    return refused(ApiError(error.status_code, message, headers=dict(error.headers or {})))


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=GONE)


def _page(service: Service):
    """The chat page, as it is when the server starts; its own script and style may run, and nothing else."""
    text = service.page.read_text(encoding="utf-8")
    allowed = {"script": [], "style": []}
    for kind, content in INLINE.findall(text):
        digest = base64.b64encode(hashlib.sha256(content.encode("utf-8")).digest()).decode("ascii")
        allowed[kind].append(f"'sha256-{digest}'")
    policies = [FORBIDDEN, *(f"{kind}-src {' '.join(hashes)}" for kind, hashes in allowed.items() if hashes)]
    headers = {
        "Content-Security-Policy": "; ".join(policies),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }

    async def page(request: Request) -> Response:
        """The chat page."""
        return Response(text, media_type="text/html", headers=headers)

    return page
