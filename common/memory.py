"""This machine's memory: how much there is, and what nobody uses any more given back to it."""

import contextlib
import ctypes
import os
from pathlib import Path

# what a container allows, by the kernel's second and first interface
CONTAINERS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def give_back() -> None:
    """Lets the C library return the pages that it keeps for later. Does nothing where it is not GNU's."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def total() -> int:
    """The bytes that this machine has, or that the container allows in which this runs."""
    known = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for limit in CONTAINERS:
        with contextlib.suppress(OSError, ValueError):  # "max" where there is none
            known.append(int(Path(limit).read_text()))
    return min(known)
