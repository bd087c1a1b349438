"""Jittor's cache of compiled kernels, looked at before Jittor is imported.

What is wrong with it would end the process without a word that helps: a library that was cut, by a full disk or a
machine that went down, ends in a bus error. Nothing is removed here: another process may be about to use it.
"""

import contextlib
import fcntl
import os
import resource
import struct
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

from common.errors import UserError

HANDLES = 1024  # that a process may hold open, where nothing forbids it
ELF, SECTIONS = b"\x7fELF\x02\x01", struct.Struct("<40xQ10xHH")  # 64 bits, little endian; where its last part stands


def allow_handles() -> None:
    """Lets this process hold enough files open. Raises UserError where the shell forbids it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = 64 + 4 * (os.cpu_count() or 1)  # a compiler on each core, with its pipes
    most = HANDLES if hard == resource.RLIM_INFINITY else min(hard, HANDLES)
    if most < enough:
        raise UserError(f"only {hard} files may be open at once, Jittor needs {enough}: `ulimit -n {HANDLES}` first")
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


@contextlib.contextmanager
def found() -> Iterator[None]:
    """Turns what goes wrong while Jittor finds its folder into the user's error."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # of a library that cannot be loaded, not of a folder
            raise
        _forget_lock(error)
        raise UserError(_unwritable(error.filename or Path.home(), error)) from error
    except ValueError as error:
        settings = Path.home() / ".cache" / "jittor" / "config.json"
        raise UserError(f"{settings}, where Jittor keeps its own settings, is damaged ({error}): remove it") from error


def check(cache: Path) -> None:
    """Raises UserError where Jittor could not write in its cache, or would load a library that was cut."""
    lock = cache.parent / "jittor.lock"
    try:
        for folder in (cache, cache / "jit"):
            if folder.is_dir():
                tempfile.TemporaryFile(dir=folder).close()
        opened = lock.open("a")
    except OSError as error:
        raise UserError(_unwritable(cache, error)) from error
    with opened:
        if _damaged(cache):  # or another process is at the moment writing it, which holds the lock meanwhile
            fcntl.flock(opened, fcntl.LOCK_EX)  # while it compiles Jittor's core
            fcntl.lockf(opened, fcntl.LOCK_EX)  # while the core compiles kernels: a lock of another kind
            if cut := _damaged(cache):
                several = f" and {len(cut) - 1} more are" if len(cut) > 1 else " is"
                raise UserError(
                    f"{cut[0]}{several} damaged, in Jittor's cache of compiled kernels: remove the cache, "
                    f"`rm -r {cache}`, and it is compiled again"
                )


def _forget_lock(error: OSError) -> None:
    """Lets go of Jittor's lock, which complains on stderr that it cannot be closed, having never been opened."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        traceback.clear_frames(error.__traceback__)
    finally:
        sys.unraisablehook = hook


def _damaged(cache: Path) -> list[Path]:
    return [path for path in sorted(cache.rglob("*.so")) if _is_cut(path)] if sys.platform == "linux" else []


def _is_cut(path: Path) -> bool:
    """Whether a library ends before its last part, the table of its sections."""
    try:
        with path.open("rb") as file:
            head, size = file.read(SECTIONS.size), os.fstat(file.fileno()).st_size
    except FileNotFoundError:  # it was replaced meanwhile
        return False
    if len(head) < SECTIONS.size or not head.startswith(ELF):
        return True
    start, width, count = SECTIONS.unpack(head)
    return start + width * count > size


def _unwritable(where: object, error: OSError) -> str:
    return (
        f"Jittor cannot write to its cache of compiled kernels, {where}: {error.strerror}; make it writable, or set "
        "HOME to a folder that is"
    )
