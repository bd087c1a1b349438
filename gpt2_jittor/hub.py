"""From the name of a model to a folder on this machine.

A name is a local folder, `nano` (the model in this repository), a preset, or any `organisation/name` on the
hub. What the hub's cache holds is used without a network; otherwise the few files that are needed are fetched
by name, which asks of a mirror no more than serving files.
"""

import difflib
import os
import re
from collections.abc import Callable
from pathlib import Path

from common.errors import UserError
from gpt2_jittor.config import PRESETS
from gpt2_jittor.weights import WEIGHT_FILES, weight_parts

NANO = Path(__file__).resolve().parent.parent / "checkpoints" / "gpt2-nano"
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)

# beside config.json and the weights; none of them is in every repository
SMALL_FILES = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
CONNECT_SECONDS = 10


def locate(name: str | Path) -> Path:
    """The folder of a model given by folder, preset or hub id; downloads it into the hub's cache if needed.

    HF_ENDPOINT, HF_HOME, HF_HUB_CACHE and HF_HUB_OFFLINE are read at each call. Raises UserError for a folder
    without config.json, for an unknown name, and where neither the cache nor the network has the model.
    """
    name = str(name)
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file():
        return folder
    if name == "nano":
        return _local(NANO)
    if name in PRESETS:
        return _from_hub(PRESETS[name].repo_id, old_id=name)
    if folder.exists() or not HUB_ID.fullmatch(name):
        return _local(folder)
    return _from_hub(name)


def _local(folder: Path) -> Path:
    if (folder / "config.json").is_file():
        return folder
    if (folder / "adapter_config.json").is_file():
        raise UserError(f"{folder} holds an adapter, not a model: give it as --adapter")
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
    cache = _cache_folder()
    for known_id in filter(None, (repo_id, old_id)):  # old caches have gpt2 without its organisation
        snapshot = _cached(known_id, cache)
        if snapshot:
            return snapshot
    if _is_set("HF_HUB_OFFLINE") or _is_set("TRANSFORMERS_OFFLINE"):
        raise UserError(_unreachable(repo_id, "HF_HUB_OFFLINE forbids a download", cache))
    return _download(repo_id, cache)


def _cache_folder() -> Path:
    """Where huggingface_hub keeps its files. It reads the environment at its import; this, at each call."""
    environment = os.environ
    home = Path(environment.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    home = Path(environment.get("HF_HOME") or home)
    cache = environment.get("HF_HUB_CACHE") or environment.get("HUGGINGFACE_HUB_CACHE") or home / "hub"
    return Path(os.path.expandvars(cache)).expanduser()


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")


def _cached(repo_id: str, cache: Path) -> Path | None:
    """A repository's snapshot in the cache, if it is whole: a download may have ended early."""
    import huggingface_hub

    found = huggingface_hub.try_to_load_from_cache(repo_id, "config.json", cache_dir=cache)
    if not isinstance(found, str):
        return None
    snapshot = Path(found).parent
    parts = weight_parts(snapshot)
    has_weights = bool(parts) and all((snapshot / part).is_file() for part in parts)
    tokenizers = (["tokenizer.json"], ["vocab.json", "merges.txt"])
    has_tokenizer = any(all((snapshot / file).is_file() for file in files) for files in tokenizers)
    return snapshot if has_weights and has_tokenizer else None


def _download(repo_id: str, cache: Path) -> Path:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    try:
        return _fetch_model(repo_id, cache, endpoint)
    except UserError:
        raise
    except GatedRepoError:
        problem = f"{repo_id} asks for a login: accept its terms on {endpoint}, then `hf auth login`"
    except RepositoryNotFoundError:
        problem = f"{endpoint} has no model {repo_id}, and there is no such folder; {_suggestion(repo_id)}"
    except Exception as error:  # the hub's client lets through its network library's errors and the system's
        if _is_absent(error):
            problem = f"{endpoint} has no config.json for {repo_id}: is it a model for transformers?"
        else:
            problem = _unreachable(repo_id, f"{endpoint} cannot be read ({_reason(error)})", cache)
    raise UserError(problem)


def _fetch_model(repo_id: str, cache: Path, endpoint: str) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    def fetch(filename: str) -> Path | None:
        try:
            return Path(hf_hub_download(repo_id, filename, cache_dir=cache, endpoint=endpoint))
        except Exception as error:
            if _is_absent(error):
                return None
            raise

    # without a network this fails at once; hf_hub_download would try again for half a minute
    url = hf_hub_url(repo_id, "config.json", endpoint=endpoint)
    get_hf_file_metadata(url, timeout=CONNECT_SECONDS, endpoint=endpoint)
    config = fetch("config.json")
    for filename in SMALL_FILES:
        fetch(filename)
    if not any(_fetch_weights(name, fetch) for name in WEIGHT_FILES):
        raise UserError(f"{repo_id} has no weights in safetensors or PyTorch's format; choose another model")
    return config.parent


def _fetch_weights(name: str, fetch: Callable[[str], Path | None]) -> bool:
    path = fetch(name)
    if path and name.endswith(".json"):
        for part in weight_parts(path.parent):
            if fetch(part) is None:
                raise UserError(f"the hub lists {part} in {name} but does not have it; choose another model")
    return path is not None


def _is_absent(error: Exception) -> bool:
    """Whether the server answered that it has no such file; plain mirrors say so by the status alone."""
    responses = (getattr(step, "response", None) for step in (error, error.__cause__))
    return any(response is not None and response.status_code == 404 for response in responses)


def _reason(error: Exception) -> str:
    return str(error.__cause__ or error).strip().split("\n")[0] or type(error).__name__


def _unreachable(repo_id: str, reason: str, cache: Path) -> str:
    return (
        f"{repo_id} is neither a folder here nor in the cache {cache}, and {reason}; give a local folder, "
        f"or run `hf download {repo_id} --local-dir FOLDER` on a machine with a network and copy FOLDER here"
    )
