"""Folders of ours that stand before Jittor's or NVIDIA's: their files are never touched.

They are placed in the user's cache, not in the checkout: Jittor compiles everything again when a path among its flags
changes, and all checkouts share what it has compiled.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from common.errors import UserError


def cache() -> Path:
    """This project's folder in the user's cache."""
    return Path.home() / ".cache" / "gpt2-jittor"


def placed(name: str, key: Iterable[object], fill: Callable[[Path], None]) -> Path:
    """The folder `name`, of a version by the `key`; where it is missing, made by `fill` and put there whole.

    Raises UserError where the cache cannot be written.
    """
    folder = cache() / f"{name}-{hashlib.sha256(repr(tuple(key)).encode()).hexdigest()[:12]}"
    if folder.is_dir():
        return folder
    new = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
        new.chmod(0o755)
        fill(new)
        _rename(new, folder)
    except OSError as error:
        what = f"{folder} cannot be written: {error.strerror}"
        raise UserError(f"{what}; make it writable, or set HOME to a folder that is") from error
    finally:
        if new:
            shutil.rmtree(new, ignore_errors=True)
    return folder


def _rename(new: Path, folder: Path) -> None:
    try:
        new.rename(folder)
    except OSError:
        if not folder.is_dir():  # another process was first: the same key, the same files
            raise
