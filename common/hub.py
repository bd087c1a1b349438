"""Files from the Hugging Face hub, models' and data's alike, in the cache that its own client keeps.

The client asks, logs in and links; the bytes are fetched here. It checks only their size, and drops what has
arrived where a connection is reset or a run is stopped. Here that waits as `.incomplete` and is gone on with,
in this call or the next, and no file enters the cache before it agrees with its hash, the hub's name for it. What has
been damaged there since, by a full disk or a hand, is found out before it is used, and fetched again.

`huggingface_hub` takes half a second to import, so that is done where it is needed.
"""

import hashlib
import json
import os
import re
import struct
import time
import urllib.parse
import zipfile
from pathlib import Path

from common.errors import ParameterError, UserError
from common.files import expanded, hexdigest
from common.terminal import bar

HASHED = 1 << 24  # bytes: of larger files the ends tell that they were cut, and reading all each time takes long
SECONDS = 10  # to wait for an answer, and for more of a file
TRIES = 5  # of a download, in a row, without a byte more
PAUSE = 1.0  # seconds between them
ETAG = re.compile(r"\w[\w.+=-]*", re.ASCII)  # it becomes the name of a file


class HubError(ParameterError):
    """A file that cannot be had. `reason` says why; `missing` is what there is not: "file", "repository",
    "access" to it, or "network", which is any other fault.
    """

    def __init__(self, template: str, /, *, reason: str, missing: str, **values: str):
        super().__init__(template, reason=reason, **values)
        self.reason = reason
        self.missing = missing


def fetch(
    repo_id: str,
    filename: str,
    repo_type: str = "model",
    cache_dir: Path | None = None,
    instead: str = "give a folder with {data_dir}",
) -> Path:
    """The path of `filename` in the hub's cache, downloaded where it is missing or has changed.

    What the cache has is good enough where no newer one can be had. HF_ENDPOINT, HF_HOME, HF_HUB_CACHE and
    HF_HUB_OFFLINE are read at each call. Raises HubError where the file cannot be had, UserError where it
    arrives damaged or HF_ENDPOINT is no address; `instead` says what else can be done, as a
    template of a ParameterError.
    """
    hub = endpoint()  # first of all: the client cannot be imported beside an address that is none
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, HTTPError, OfflineModeIsEnabled

    cache = expanded(cache_dir or cache_folder())
    known, fault = None, ""
    try:
        known = cached(repo_id, filename, repo_type, cache)
        if known and (wrong := damage(known)):
            known, fault = None, f"{known} is damaged ({wrong})"
        if not offline():
            return _fetch(repo_id, filename, repo_type, cache, instead)
        if not known:
            lacking = fault or f"it is not in the cache {cache}"
            raise OfflineModeIsEnabled(f"{lacking}, and HF_HUB_OFFLINE forbids a download")
    except (EntryNotFoundError, HFValidationError, HTTPError, OSError) as error:
        if not known:
            reason, missing = _explain(error)
            if fault and fault not in reason:
                reason = f"{reason}, and {fault}"
            source = f"{hub} ({repo_type} {repo_id})"
            template = "cannot get {filename} from {source}: {reason}; " + instead
            raise HubError(template, filename=filename, source=source, reason=reason, missing=missing) from error
    return known


def cached(repo_id: str, filename: str, repo_type: str = "model", cache_dir: Path | None = None) -> Path | None:
    """The path of a file in the hub's cache, without asking the hub; None where it is not there.

    Raises UserError where HF_ENDPOINT is no address.
    """
    endpoint()
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(repo_id, filename, cache_dir=cache_dir or cache_folder(), repo_type=repo_type)
    except HFValidationError:  # no name of a repository: the user's mistake
        raise
    except ValueError:  # a file of the cache's own that is damaged: it does not say which version is there
        return None
    return Path(found) if isinstance(found, str) else None


def damage(path: Path, name: str = "") -> str:
    """What is wrong with a file in the cache, in words; empty where nothing is.

    A file's name among the cache's blobs is its hash. Of a large one of a known format only its ends are looked at:
    that finds what was cut, as a full disk does, not what was changed. `name`: the file's, where `path` is its blob.
    """
    blob = path.resolve()
    if not blob.is_file():
        return "its content is gone"
    if blob.parent.name != "blobs":  # a copy, of which nobody said what it must be
        return ""
    if blob.stat().st_size > HASHED and (cut := _is_cut(blob, Path(name or path.name).suffix)) is not None:
        return "it was cut" if cut else ""
    return "" if _digest(blob, blob.name) == blob.name else "its checksum is another"


def cache_folder() -> Path:
    """Where the hub's client keeps its files. It reads the environment at its import; this, at each call."""
    environment = os.environ
    home = Path(environment.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    home = Path(environment.get("HF_HOME") or home)
    cache = environment.get("HF_HUB_CACHE") or environment.get("HUGGINGFACE_HUB_CACHE") or home / "hub"
    return expanded(os.path.expandvars(cache))


def endpoint() -> str:
    """The address of the hub, or of the mirror that is set. Raises UserError where that is no address."""
    address = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    try:
        parts = urllib.parse.urlsplit(address)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port or an IPv6 address that is none
        valid = False
    if not valid:
        raise UserError(f"HF_ENDPOINT={address} is no address: give one such as https://huggingface.co, or unset it")
    return address


def offline() -> bool:
    """Whether the environment forbids downloads."""
    settings = (os.environ.get(name, "") for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return any(setting.upper() in ("1", "ON", "YES", "TRUE") for setting in settings)


def _fetch(repo_id: str, filename: str, repo_type: str, cache: Path, instead: str) -> Path:
    """Puts the file's newest version into the cache, then has the client link it into its snapshot."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import FileMetadataError
    from huggingface_hub.utils import WeakFileLock

    url = hf_hub_url(repo_id, filename, repo_type=repo_type, endpoint=endpoint())
    # asked once: without a network the client would ask for half a minute
    metadata = get_hf_file_metadata(url, timeout=SECONDS, endpoint=endpoint())
    etag = metadata.etag or ""
    if not metadata.commit_hash or not ETAG.fullmatch(etag):
        raise FileMetadataError("what answered is not a hub")

    folder = f"{repo_type}s--{repo_id.replace('/', '--')}"
    blob, lock = cache / folder / "blobs" / etag, cache / ".locks" / folder / f"{etag}.lock"
    if not _is_whole(blob, filename, metadata.size):
        for path in (blob, lock):
            path.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(lock):
            if not _is_whole(blob, filename, metadata.size):  # another process may have brought it meanwhile
                part = blob.with_name(f"{etag}.incomplete")
                _complete(part, url, metadata.size, filename)
                fault = _fault(part, etag, metadata.size)
                if fault:
                    part.unlink()
                    template = "{file} arrived damaged ({fault}) and was removed: try again, or " + instead
                    raise ParameterError(template, file=f"{repo_id}/{filename}", fault=fault)
                part.replace(blob)
    newest = cache / folder / "refs" / "main"
    if newest.is_file() and not newest.read_bytes().isascii():  # damaged: the client would read it, and fail
        newest.unlink()
    return Path(hf_hub_download(repo_id, filename, repo_type=repo_type, cache_dir=cache, endpoint=endpoint()))


def _is_whole(blob: Path, name: str, size: int | None) -> bool:
    """Whether the cache has a file, and as it should be."""
    if not blob.exists() or (size is not None and blob.stat().st_size != size):
        return False
    return not damage(blob, name)


def _complete(part: Path, url: str, size: int | None, name: str) -> None:
    """Appends to `part` what it lacks of the file at `url`; goes on after a connection that broke.

    Raises the hub's refusal at once, a fault of the network when TRIES of them brought nothing new.
    """
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    if size is None or (part.exists() and part.stat().st_size > size):
        part.unlink(missing_ok=True)  # nobody knows how much is missing
    part.touch()
    failures = 0
    while (begin := part.stat().st_size) != size:
        try:
            _append(part, begin, url, size, name)
            break
        except HfHubHTTPError:
            raise
        except HTTPError:
            failures = 0 if part.stat().st_size > begin else failures + 1
            if failures == TRIES:
                raise
            time.sleep(PAUSE)


def _append(part: Path, begin: int, url: str, size: int | None, name: str) -> None:
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_stream_backoff, tqdm

    headers = build_hf_headers() | {"Accept-Encoding": "identity"}  # compressed bytes could not be counted
    if begin:
        headers["Range"] = f"bytes={begin}-"
    with (
        http_stream_backoff(
            "GET", url, headers=headers, timeout=SECONDS, retry_on_exceptions=(), retry_on_status_codes=429
        ) as response,
        part.open("ab") as file,
    ):
        hf_raise_for_status(response)
        if response.status_code != 206:  # all of it comes, whether the rest was asked for or not
            begin = 0
            file.truncate(0)
        with bar(name, tqdm, total=size, initial=begin, unit="B", unit_scale=True, disable=None) as shown:
            for block in response.iter_bytes():
                file.write(block)
                shown.update(len(block))


def _fault(part: Path, etag: str, size: int | None) -> str:
    """What is wrong with a file: its size, or its hash, where the hub's name for it is one."""
    found = part.stat().st_size
    if size is not None and found != size:
        return f"{found} bytes, not {size}"
    return f"checksum not {etag}" if _digest(part, etag) != etag else ""


def _is_cut(blob: Path, suffix: str) -> bool | None:
    """Whether a file ends before its end, None where its format does not tell. It is not read as a whole."""
    size = blob.stat().st_size
    with blob.open("rb") as file:
        if suffix == ".safetensors":
            try:
                (length,) = struct.unpack("<Q", file.read(8))
                header = json.loads(file.read(min(length, size)))
                ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
                return 8 + length + max(ends, default=0) != size
            except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
                return True
        if suffix in (".zip", ".bin") and file.read(2) == b"PK":
            return not zipfile.is_zipfile(blob)
        if suffix == ".parquet":
            file.seek(-4, os.SEEK_END)
            return file.read(4) != b"PAR1"
    return None


def _digest(part: Path, etag: str) -> str:
    """The hash of a file, of the sort that its ETag is: a large file's SHA-256, else git's SHA-1.

    A plain mirror's ETag may be neither; it is returned as it is.
    """
    if re.fullmatch("[0-9a-f]{64}", etag):
        digest = hashlib.sha256()
    elif re.fullmatch("[0-9a-f]{40}", etag):
        digest = hashlib.sha1(b"blob %d\0" % part.stat().st_size)
    else:
        return etag
    return hexdigest(part, digest)


def _explain(error: Exception) -> tuple[str, str]:
    """Why a file cannot be had, in words, and what it is that is missing."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    if isinstance(error, LocalEntryNotFoundError):  # the client's words for any fault of the network
        error = error.__cause__ or error
    if isinstance(error, GatedRepoError):
        return "its owner gives access on request only", "access"
    if isinstance(error, RepositoryNotFoundError):
        return "there is no such repository, or it is private", "repository"
    if isinstance(error, EntryNotFoundError):
        return "the repository has no such file", "file"
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code  # a plain mirror answers 404 without saying what is not there
        return ("there is no such file", "file") if status == 404 else (f"the hub answered {status}", "network")
    return str(error).strip().partition("\n")[0] or type(error).__name__, "network"
