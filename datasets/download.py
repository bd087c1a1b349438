"""Files from the Hugging Face hub, through its own client: its cache, its progress bar, its settings
(`HF_ENDPOINT`, `HF_HOME`, `HF_HUB_OFFLINE`).

The client checks only the size of what it downloads. The hub names each file by its hash, so whatever is
new in the cache is compared with its name here, and thrown away where it differs.
"""

import hashlib
import os
import re
from pathlib import Path

from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from common.errors import UserError

BLOCK = 1 << 20


def fetch(
    repo_id: str,
    filename: str,
    repo_type: str = "model",
    cache_dir: Path | None = None,
    instead: str = "give a folder with --data-dir",
) -> Path:
    """The path of `filename` in the hub's cache, downloaded where it is missing or has changed.

    Raises UserError where it cannot be had, or arrives damaged; `instead` says what else can be done.
    """
    where = {"repo_type": repo_type, "cache_dir": cache_dir}
    endpoint = os.environ.get("HF_ENDPOINT")
    try:
        known = try_to_load_from_cache(repo_id, filename, **where)
        if not isinstance(known, str):  # one quick question first: the client itself would ask for half a minute
            get_hf_file_metadata(hf_hub_url(repo_id, filename, repo_type=repo_type, endpoint=endpoint))
        path = hf_hub_download(repo_id, filename, endpoint=endpoint, **where)
    except (EntryNotFoundError, HFValidationError, HTTPError, OSError) as error:
        source = f"{endpoint or 'huggingface.co'} ({repo_type} {repo_id})"
        raise UserError(f"cannot get {filename} from {source}: {_reason(error)}; {instead}") from error
    if path != known:
        _check(Path(path), f"{repo_id}/{filename}")
    return Path(path)


def _reason(error: Exception) -> str:
    if isinstance(error, GatedRepoError):
        return "its owner gives access on request only"
    if isinstance(error, RepositoryNotFoundError):
        return "there is no such repository, or it is private"
    if isinstance(error.__cause__, FileMetadataError):
        return "what answered is not a hub"
    if isinstance(error, LocalEntryNotFoundError):
        return "it is not in the cache and the hub cannot be reached"
    if isinstance(error, EntryNotFoundError):
        return "the repository has no such file"
    if isinstance(error, HfHubHTTPError):
        return f"the hub answered {error.response.status_code}"
    return str(error).partition("\n")[0]


def _check(path: Path, name: str) -> None:
    """Compares a downloaded file with its hash; removes it and raises UserError where they differ.

    In the cache, `path` links to a file named by the hub's ETag: a large file's SHA-256, else git's SHA-1.
    """
    if not path.is_symlink():  # a file system without links keeps no hash beside the file
        return
    blob = path.parent / os.readlink(path)  # noqa: PTH115 - one step only: the blob itself may be a link
    if _digest(blob) not in (blob.name, None):
        for file in (path.resolve(), blob, path):
            file.unlink(missing_ok=True)
        raise UserError(f"{name} arrived damaged (checksum not {blob.name}) and was removed: try again")


def _digest(blob: Path) -> str | None:
    """The hash of a file, of the sort that its name is; None where its name is not a hash."""
    if re.fullmatch("[0-9a-f]{64}", blob.name):
        digest = hashlib.sha256()
    elif re.fullmatch("[0-9a-f]{40}", blob.name):
        digest = hashlib.sha1(b"blob %d\0" % blob.stat().st_size)
    else:
        return None
    with blob.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
