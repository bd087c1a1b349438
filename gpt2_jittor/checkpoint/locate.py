"""From the name of a model to a folder on this machine.

A name is a local folder, `nano` (the model in this repository), a preset, or any `organisation/name` on the
hub. What the hub's cache holds is used without a network; otherwise the few files that are needed are fetched
by name, which asks of a mirror no more than serving files.
"""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

from common import hub
from common.errors import ParameterError, UserError
from common.files import expanded
from gpt2_jittor.checkpoint.config import PRESETS
from gpt2_jittor.checkpoint.tokenizer import FILES
from gpt2_jittor.checkpoint.weights import WEIGHT_FILES, weight_parts

NANO = Path(__file__).resolve().parents[2] / "checkpoints" / "gpt2-nano"
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)

# beside config.json and the weights; none of them is in every repository
SMALL_FILES = ("generation_config.json", *FILES)


def locate(name: str | Path) -> Path:
    """The folder of a model given by folder, preset or hub id; downloads it into the hub's cache if needed.

    HF_ENDPOINT, HF_HOME, HF_HUB_CACHE and HF_HUB_OFFLINE are read at each call. Raises UserError for a folder
    without config.json, for an unknown name, and where neither the cache nor the network has the model.
    """
    name = str(name)
    folder = expanded(name)
    if (folder / "config.json").is_file():
        return folder
    if name == "nano":
        return _local(NANO)
    if name in PRESETS:
        return _from_hub(PRESETS[name].repo_id, old_id=name)
    return _local(folder) if is_local(name) else _from_hub(name)


def is_local(name: str) -> bool:
    """Whether `locate` finds this model without the hub, or finds that there is none."""
    named = name in PRESETS or HUB_ID.fullmatch(name) is not None
    return name == "nano" or not named or expanded(name).exists()


def _local(folder: Path) -> Path:
    if (folder / "config.json").is_file():
        return folder
    if (folder / "adapter_config.json").is_file():
        raise ParameterError("{folder} holds an adapter, not a model: give it as {adapter}", folder=folder)
    if folder.is_dir():
        raise UserError(f"{folder} has no config.json: give a model's folder in Hugging Face's layout")
    if folder.exists():
        raise UserError(f"{folder} is a file: give the folder that holds config.json and the weights")
    raise UserError(f"there is no folder {folder}, and no model of that name; {_suggestion(str(folder))}")


def _suggestion(name: str) -> str:
    known = ["nano", *PRESETS]
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
    return f"did you mean {nearest}? Known names: {', '.join(known)}, or organisation/name on the hub"


def _from_hub(repo_id: str, old_id: str | None = None) -> Path:
    damaged = []
    for known_id in filter(None, (repo_id, old_id)):  # old caches have gpt2 without its organisation
        snapshot = _cached(known_id, damaged)
        if snapshot:
            return snapshot
    if hub.offline():
        if damaged:
            raise UserError(f"{damaged[0]}, and HF_HUB_OFFLINE forbids a download; unset it, or {_instead(repo_id)}")
        raise UserError(_unreachable(repo_id, "HF_HUB_OFFLINE forbids a download"))
    return _download(repo_id)


def _cached(repo_id: str, damaged: list[str]) -> Path | None:
    """A repository's snapshot in the cache, if it is whole: a download may have ended early.

    What was damaged since, as far as can be known before it is read, is added to `damaged`.
    """
    config = hub.cached(repo_id, "config.json")
    if config is None:
        return None
    snapshot = config.parent
    faults = _damage(snapshot, ("config.json", *SMALL_FILES, *WEIGHT_FILES))
    parts = None if faults else weight_parts(snapshot)
    faults += _damage(snapshot, parts or ())
    if faults:
        damaged += faults
        return None
    has_weights = bool(parts) and all((snapshot / part).is_file() for part in parts)
    tokenizers = (["tokenizer.json"], ["vocab.json", "merges.txt"])
    has_tokenizer = any(all((snapshot / file).is_file() for file in files) for files in tokenizers)
    return snapshot if has_weights and has_tokenizer else None


def _damage(snapshot: Path, names: Sequence[str]) -> list[str]:
    there = [snapshot / name for name in names if (snapshot / name).is_file()]
    return [f"{path} is damaged ({fault})" for path in there if (fault := hub.damage(path))]


def _download(repo_id: str) -> Path:
    try:
        config = hub.fetch(repo_id, "config.json", instead=_instead(repo_id))
        for filename in SMALL_FILES:
            _fetch_if_there(repo_id, filename)
        if not any(_fetch_weights(repo_id, name) for name in WEIGHT_FILES):
            raise UserError(f"{repo_id} has no weights in safetensors or PyTorch's format; choose another model")
    except hub.HubError as error:
        raise UserError(_problem(repo_id, error)) from error
    return config.parent


def _fetch_if_there(repo_id: str, filename: str) -> Path | None:
    try:
        return hub.fetch(repo_id, filename, instead=_instead(repo_id))
    except hub.HubError as error:
        if error.missing == "file":
            return None
        raise


def _fetch_weights(repo_id: str, name: str) -> bool:
    path = _fetch_if_there(repo_id, name)
    if path and name.endswith(".json"):
        for part in weight_parts(path.parent):
            if _fetch_if_there(repo_id, part) is None:
                raise UserError(f"the hub lists {part} in {name} but does not have it; choose another model")
    return path is not None


def _problem(repo_id: str, error: hub.HubError) -> str:
    endpoint = hub.endpoint()
    if error.missing == "access":
        return f"{repo_id} asks for a login: accept its terms on {endpoint}, then `hf auth login`"
    if error.missing == "repository":
        return f"{endpoint} has no model {repo_id}, and there is no such folder; {_suggestion(repo_id)}"
    if error.missing == "file":
        return f"{endpoint} has no config.json for {repo_id}: is it a model for transformers?"
    return _unreachable(repo_id, f"{endpoint} cannot be read ({error.reason})")


def _unreachable(repo_id: str, reason: str) -> str:
    cache = hub.cache_folder()
    return f"{repo_id} is neither a folder here nor in the cache {cache}, and {reason}; {_instead(repo_id)}"


def _instead(repo_id: str) -> str:
    return (
        f"give a local folder, or run `hf download {repo_id} --local-dir FOLDER` on a machine with a network "
        "and copy FOLDER here"
    )
