"""One process at a time in a folder. The kernel lets go of the lock when the process ends, however it ends."""

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from common.errors import ParameterError, UserError

LOCK = ".lock"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds `folder`, which is made where it is missing and removed again if it stays empty.

    Raises UserError where another process holds it, where it cannot be written, or where the lock's name stands for
    another file, which would be overwritten.
    """
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened = _take(path)
    except OSError as error:
        if error.errno == errno.ELOOP:  # what O_NOFOLLOW says of a link
            raise UserError(_foreign(path)) from error
        raise ParameterError(
            "cannot write {folder}: {reason}; choose another {output_dir}", folder=folder, reason=error.strerror
        ) from error
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
    """Opens and locks the file that has this name. Raises UserError where somebody has locked it, or it is no lock."""
    while True:
        opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        try:
            found = os.fstat(opened)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:  # 0 links: its holder has removed it
                raise UserError(_foreign(path))
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and path.stat().st_ino == found.st_ino:
                return opened
        except BlockingIOError:
            holder = _holder(opened)
            os.close(opened)
            raise ParameterError(
                "another training works in {folder}{holder}: wait for it, or choose another {output_dir}",
                folder=path.parent,
                holder=holder,
            ) from None
        except BaseException:
            os.close(opened)
            raise
        os.close(opened)  # its holder removed it between our opening and our locking it


def _holder(opened: int) -> str:
    with contextlib.suppress(OSError, ValueError):
        return f" (process {int(os.pread(opened, 20, 0))})"
    return ""


def _foreign(path: Path) -> str:
    return f"{path} is a link, a pipe or another file's name, and no lock of a training: remove it"
