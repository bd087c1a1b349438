"""NVIDIA's library of sums between devices, for several processes: pip's, or the system's.

Where Jittor is not told of one it downloads NCCL 2.8.4 and builds it. Here it is told, or told to use none; its sums
then go over the host.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from common import processes
from gpt2_jittor.runtime import overlay
from gpt2_jittor.runtime.cuda import driver as drivers
from gpt2_jittor.runtime.cuda import parts
from gpt2_jittor.runtime.cuda.bounds import WHEELS
from gpt2_jittor.runtime.cuda.driver import Driver
from gpt2_jittor.runtime.cuda.parts import Place

WHEEL = "nvidia-nccl-cu13"
SYSTEM = (Place(Path("/usr/include"), Path("/usr/lib/x86_64-linux-gnu")),)  # of apt's libnccl-dev
VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Nccl:
    """Where it is; `wheel` is the version of the wheel, None where it is not pip's."""

    place: Place
    wheel: str | None = None


def find(driver: Driver) -> Nccl | None:
    """The one that the environment names, else pip's where the driver is new enough, else the system's, or None."""
    named = [os.environ.get(name) for name in ("nccl_include_path", "nccl_lib_path")]
    if all(named):
        return Nccl(Place(*map(Path, named)))
    header, library = (parts.file_of(WHEEL, end) for end in ("include/nccl.h", "lib/libnccl.so.2"))
    if header and library and driver.release >= WHEELS:
        return Nccl(Place(header.parent, library.parent), parts.version_of(WHEEL))
    whole = (place for place in SYSTEM if (place.include / "nccl.h").is_file() and place.library("libnccl.so"))
    return next((Nccl(place) for place in whole), None)


def settings() -> dict[str, str]:
    """The environment for one of several processes, to be settled before it asks its driver of anything.

    With NCCL Jittor gives each process its device. Without it every process would take the first; so each is shown one.
    Raises UserError where the cache cannot be written.
    """
    driver = drivers.ask_apart()
    if not driver.devices:
        return {}
    found = find(driver) if os.environ.get("use_nccl", "1") == "1" else None
    if found is None:
        return {"use_nccl": "0", VISIBLE: _own_device(len(driver.devices))}
    place = _with_plain_name(found.place)
    return {"nccl_include_path": str(place.include), "nccl_lib_path": str(place.libraries)}


def _with_plain_name(place: Place) -> Place:
    """Jittor wants `libnccl.so`; the wheel has `libnccl.so.2` alone."""
    library = place.library("libnccl.so")
    if library is None or library.name == "libnccl.so":
        return place
    folder = overlay.placed("nccl", [library], lambda folder: (folder / "libnccl.so").symlink_to(library))
    return Place(place.include, folder)


def _own_device(count: int) -> str:
    """What CUDA_VISIBLE_DEVICES shows this process alone: one of `count` visible devices, in turn with the others."""
    names = os.environ.get(VISIBLE, "").split(",")[:count]  # the driver takes the names up to the first that is wrong
    number = processes.local_rank() % count
    return names[number] if len(names) == count and all(names) else str(number)
