"""POST /tokenize and /detokenize: a model's ids of a text or of messages, and the text of ids, as vLLM has them."""

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from serving.body import Fields
from serving.errors import invalid
from serving.prompts import read_messages, read_prompts
from serving.responses import Json
from serving.service import Service
from serving.work import Served


async def tokenize(request: Request) -> Response:
    """The ids of `prompt`, as completions read it, or of `messages`, as a chat does."""
    service: Service = request.app.state.service
    fields = await service.fields(request)
    served, prompt, messages = service.named(fields), fields.any("prompt"), fields.any("messages")
    with_names = fields.flag("return_token_strs")
    fields.end()
    if (prompt is None) == (messages is None):
        raise invalid("prompt", "or messages must be given, and not both")
    ids = await service.encoded(request, _ids, prompt, messages, served)
    names = [served.pieces.name(token) for token in ids] if with_names else None
    return Json({"count": len(ids), "max_model_len": served.positions, "tokens": ids, "token_strs": names})


async def detokenize(request: Request) -> Response:
    """The text of `tokens`, special ones spelled out."""
    service: Service = request.app.state.service
    fields: Fields = await service.fields(request)
    served, tokens = service.named(fields), fields.any("tokens", [])
    fields.end()
    if not isinstance(tokens, list) or any(isinstance(each, list | str) for each in tokens):
        raise invalid("tokens", "must be a list of token ids")
    if not tokens:
        return Json({"prompt": ""})
    (prompt,) = read_prompts("tokens", [tokens], served, 1)
    return Json({"prompt": served.pieces.text(prompt.ids.tolist())})


def _ids(prompt: object, messages: object, served: Served) -> list[int]:
    if prompt == "":
        return []
    if messages is not None:
        windows = read_messages(messages, served, None)
        if len(windows) > 1:
            raise invalid("messages", "are too long to be read at once")
        return windows[0].tolist()
    if not isinstance(prompt, str):
        raise invalid("prompt", "must be a text")
    (found,) = read_prompts("prompt", prompt, served, 1)
    return np.asarray(found.ids).tolist()
