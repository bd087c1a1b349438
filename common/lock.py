"""One process at a time in a folder. The kernel lets go of the lock when the process ends, however it ends."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from common.errors import UserError

LOCK = ".lock"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds `folder`, which is made where it is missing and removed again if it stays empty.

    Raises UserError where another process holds it, or where it cannot be written.
    """
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened = _take(path)
    except BlockingIOError:
        raise UserError(
            f"another training works in {folder}{_holder(path)}: wait for it, or choose another --output-dir"
        ) from None
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}; choose another --output-dir") from error
    try:
        with contextlib.suppress(OSError):  # a full disk: it is locked all the same
            os.truncate(opened, 0)
            os.write(opened, str(os.getpid()).encode())
        yield
    finally:
        with contextlib.suppress(OSError):  # the folder may have become read-only
            path.unlink(missing_ok=True)  # before it is let go: whoever waits for this very file looks again
        os.close(opened)
        with contextlib.suppress(OSError):
            folder.rmdir()


def _take(path: Path) -> int:
    """Opens and locks the file that has this name. Raises BlockingIOError where somebody has locked it."""
    while True:
        opened = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and path.stat().st_ino == os.fstat(opened).st_ino:
                return opened
        except BaseException:
            os.close(opened)
            raise
        os.close(opened)  # its holder removed it between our opening and our locking it


def _holder(path: Path) -> str:
    with contextlib.suppress(OSError, ValueError):
        return f" (process {int(path.read_text())})"
    return ""
