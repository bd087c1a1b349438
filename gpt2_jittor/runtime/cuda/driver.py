"""NVIDIA's driver and its devices, asked of `libcuda.so.1` itself: every driver brings it, no toolkit is needed."""

import contextlib
import ctypes
import os
import pickle
from dataclasses import dataclass
from pathlib import Path

from common.interrupt import interrupts_deferred
from gpt2_jittor.runtime.cuda.problem import Problem

LIBRARY = "libcuda.so.1"
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76  # of enum CUdevice_attribute
KERNEL = Path("/proc/version")
CONTAINER = (Path("/.dockerenv"), Path("/run/.containerenv"))
INSTALL = {
    "WSL 2": "install NVIDIA's driver on Windows, none in WSL 2; then `wsl --shutdown`",
    "a container": "start the container with the GPUs: docker run --gpus all",
    "a machine": "for a GPU: sudo ubuntu-drivers install, then restart",
}
UPDATE = {
    "WSL 2": "update NVIDIA's driver on Windows, then `wsl --shutdown`",
    "a container": "update the driver of the host: sudo ubuntu-drivers install",
    "a machine": "update the driver: sudo ubuntu-drivers install, then restart",
}


@dataclass(frozen=True)
class Device:
    """One GPU: its name, its memory in bytes, and its compute capability, (8, 6) for sm_86."""

    name: str
    memory: int
    capability: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.name}, {self.memory / 1e9:.1f} GB, compute capability {dotted(self.capability)}"


@dataclass(frozen=True)
class Driver:
    """The newest CUDA that the driver runs, (0, 0) where there is no driver; and the devices that are visible.

    Where there is no device, `refusal` says why, in the driver's own words.
    """

    release: tuple[int, int] = (0, 0)
    devices: tuple[Device, ...] = ()
    refusal: str = ""


def ask() -> Driver:
    """The driver of this machine. CUDA_VISIBLE_DEVICES has been heeded by it."""
    with contextlib.suppress(OSError, AttributeError):  # no such library, or another one of the name
        return _asked(ctypes.CDLL(LIBRARY))
    return Driver()


def ask_apart() -> Driver:
    """The same, asked in another process: a driver looks at CUDA_VISIBLE_DEVICES once, when it is first asked."""
    reading, writing = os.pipe()
    with interrupts_deferred(brief=True):  # or the child would go on with this process' work
        child = os.fork()
        if not child:
            try:
                os.write(writing, pickle.dumps(ask()))
            finally:
                os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        told = answer.read()
    os.waitpid(child, 0)
    return pickle.loads(told) if told else Driver()


def _asked(library: ctypes.CDLL) -> Driver:
    number = ctypes.c_int(0)
    library.cuDriverGetVersion(ctypes.byref(number))
    release = number.value // 1000, number.value % 1000 // 10
    count = ctypes.c_int(0)
    status = library.cuInit(0) or library.cuDeviceGetCount(ctypes.byref(count))
    if status or not count.value:
        return Driver(release, refusal=_words(library, status))
    return Driver(release, tuple(_device(library, index) for index in range(count.value)))


def _device(library, index: int) -> Device:
    handle, memory, name = ctypes.c_int(), ctypes.c_size_t(), ctypes.create_string_buffer(256)
    library.cuDeviceGet(ctypes.byref(handle), index)
    library.cuDeviceGetName(name, len(name), handle)
    library.cuDeviceTotalMem_v2(ctypes.byref(memory), handle)
    capability = []
    for attribute in (CAPABILITY_MAJOR, CAPABILITY_MINOR):
        number = ctypes.c_int()
        library.cuDeviceGetAttribute(ctypes.byref(number), attribute, handle)
        capability.append(number.value)
    return Device(name.value.decode(errors="replace"), memory.value, tuple(capability))


def _words(library, status: int) -> str:
    words = ctypes.c_char_p()
    library.cuGetErrorString(status, ctypes.byref(words))
    return words.value.decode() if status and words.value else "no device is visible"


def problem(driver: Driver) -> Problem | None:
    """What keeps the driver from showing a device."""
    if driver.release == (0, 0):
        return Problem("no NVIDIA driver was found", INSTALL[_place()])
    if driver.devices:
        return None
    what = f"the NVIDIA driver reports no device ({driver.refusal})"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return Problem(f"{what}, with CUDA_VISIBLE_DEVICES={visible}", "unset CUDA_VISIBLE_DEVICES")
    return Problem(what, "see what nvidia-smi says; after an update of the driver, restart the machine")


def how_to_update() -> str:
    """What brings a newer driver, wherever this runs."""
    return UPDATE[_place()]


def _place() -> str:
    with contextlib.suppress(OSError):
        if "microsoft" in KERNEL.read_text(encoding="utf-8").lower():
            return "WSL 2"
    return "a container" if any(path.exists() for path in CONTAINER) else "a machine"


def dotted(release: tuple[int, int]) -> str:
    """(12, 4) as "12.4"."""
    return ".".join(map(str, release))
