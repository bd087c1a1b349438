"""POST /v1/embeddings and /v1/classify: numbers about texts."""

import base64
import secrets
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from serving.errors import ApiError, invalid
from serving.prompts import check_prompt_length, classified, read_prompts
from serving.responses import Json
from serving.service import Service, results_of
from serving.work import Classification, Embedding, Served

FORMATS = ("float", "base64")


async def embeddings(request: Request) -> Response:
    """The mean of the last hidden states of each text, in the form of OpenAI's embeddings."""
    service: Service = request.app.state.service
    fields = await service.fields(request)
    served, given = service.named(fields), fields.any("input")
    encoding = fields.choice("encoding_format", "float", FORMATS)
    fields.end()
    if given is None or given in ("", []):
        raise invalid("input", "is missing" if given is None else "is empty")
    prompts = await service.encoded(request, read_prompts, "input", given, served, service.most_work)
    for prompt in prompts:
        if prompt.text == "":
            raise invalid("input", "holds an empty text")
        check_prompt_length("input", prompt, served.positions, 0)
    found = await results_of(request, [Embedding(served.name, prompt.ids) for prompt in prompts])
    data = [
        {"object": "embedding", "index": index, "embedding": _encoded(vector, encoding)}
        for index, vector in enumerate(found)
    ]
    return Json({"object": "list", "data": data, "model": served.name, "usage": _usage([p.ids for p in prompts])})


async def classify(request: Request) -> Response:
    """The probability of each of a classifier's labels, in the form of vLLM's /classify, with the labels' names."""
    service: Service = request.app.state.service
    fields = await service.fields(request)
    served, given = service.named(fields), fields.any("input")
    fields.end()
    if served.task.kind.generates:
        raise ApiError(400, f"{served.name} has no classes: POST to /v1/chat/completions", "model")
    several = given if isinstance(given, list) else [given]
    if given is None or not 0 < len(several) <= service.most_work:
        raise invalid("input", f"must be 1 to {service.most_work} texts")
    ids = await service.encoded(request, lambda: [classified("input", each, served) for each in several])
    found = await results_of(request, [Classification(served.name, each) for each in ids])
    return Json(
        {
            "id": f"classify-{secrets.token_hex(12)}",
            "object": "list",
            "created": int(time.time()),
            "model": served.name,
            "data": [_class(index, shares, served) for index, shares in enumerate(found)],
            "usage": _usage(ids),
        }
    )


def _encoded(vector: np.ndarray, encoding: str) -> list[float] | str:
    """As numbers, or as the base64 of little-endian float32, which OpenAI's client asks for."""
    if encoding == "float":
        return vector.tolist()
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")


def _class(index: int, shares: np.ndarray, served: Served) -> dict[str, Any]:
    labels = served.task.labels
    return {
        "index": index,
        "label": labels[int(shares.argmax())],
        "probs": shares.tolist(),
        "labels": list(labels),
        "num_classes": len(labels),
    }


def _usage(texts: Sequence[np.ndarray]) -> dict[str, int]:
    tokens = sum(map(len, texts))
    return {"prompt_tokens": tokens, "total_tokens": tokens}
