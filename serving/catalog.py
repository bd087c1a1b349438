"""What is served: the list of models, adapters that come and go, and how the server is."""

from pathlib import Path
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from serving.body import short
from serving.errors import ApiError, invalid
from serving.options import NAME
from serving.responses import Json
from serving.service import Service, results_of
from serving.work import Loading, Served, Unloading

OWNER = "gpt2-jittor"


def described(served: Served, base: str) -> dict[str, Any]:
    """A model as the API shows it: OpenAI's fields, and what a page needs to know to talk with it."""
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": OWNER,
        "root": base,
        "parent": served.parent,
        "kind": served.task.kind.name,
        "task": served.task.name,
        "fields": list(served.task.fields),
        "max_model_len": served.positions,
        "labels": list(served.task.labels),
    }


async def models(request: Request) -> Response:
    """The base and the adapters on it."""
    service: Service = request.app.state.service
    found = service.computing.models
    base = next(iter(found), "")
    return Json({"object": "list", "data": [described(served, base) for served in found.values()]})


async def model(request: Request) -> Response:
    """One of them."""
    service: Service = request.app.state.service
    served = service.served(request.path_params["name"])
    return Json(described(served, served.parent or served.name))


async def load_adapter(request: Request) -> Response:
    """Reads the adapter in a folder below --adapters-folder, and serves it under a name."""
    service: Service = request.app.state.service
    fields = await service.fields(request)
    name, folder = fields.required_text("name"), fields.required_text("folder")
    fields.end()
    if not NAME.fullmatch(name):
        raise invalid("name", "must be letters, digits, '.', '_' and '-', 128 at most, and begin with one of the first")
    path = _below(service.options.adapters_folder, folder)
    if name in service.computing.models:
        raise ApiError(409, f"there is a model {short(name)} already: take another name", "name", "model_exists")
    served = await _done(request, Loading(name, path))
    return Json(described(served, served.parent or served.name), 201)


async def unload_adapter(request: Request) -> Response:
    """An adapter is served no more."""
    service: Service = request.app.state.service
    served = service.served(request.path_params["name"])
    if served.parent is None:
        raise ApiError(409, f"{short(served.name)} is the base of all others: it stays", "name", "model_in_use")
    await _done(request, Unloading(served.name))
    return Json({"id": served.name, "object": "model", "deleted": True})


async def health(request: Request) -> Response:
    """That the server answers."""
    return Json({"status": "ok"})


async def metrics(request: Request) -> Response:
    """Figures for Prometheus."""
    service: Service = request.app.state.service
    return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)


async def _done(request: Request, work: Loading | Unloading) -> Any:
    try:
        (found,) = await results_of(request, [work])
        return found
    except ApiError as error:
        if error.status == 400:
            error.param = "folder" if isinstance(work, Loading) else "name"
        raise


def _below(root: Path | None, folder: str) -> Path:
    """A folder below the one that was given at the start, wherever links in it lead.

    Raises ApiError for one that is outside or not there: whether it is elsewhere is not told.
    """
    if root is None:
        raise ApiError(403, "no adapters are loaded here: start the server with --adapters-folder", "folder")
    absent = ApiError(404, f"there is no folder {short(folder)} below --adapters-folder", "folder", "not_found")
    try:
        path, top = (root / folder).resolve(), root.resolve()
        if ".." in Path(folder).parts or Path(folder).is_absolute() or not path.is_relative_to(top):
            raise absent
        if path == top or not path.is_dir():
            raise absent
    except (OSError, ValueError, RuntimeError):  # a name that is too long, holds a zero, or links in a circle
        raise absent from None
    return path
