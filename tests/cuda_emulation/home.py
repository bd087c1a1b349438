"""Builds a CUDA home for a device that does not exist: nvcc, headers, runtime libraries, driver.

`python -m tests.cuda_emulation.home` builds it and prints where it is. `run.py` runs commands on it.
"""

import fcntl
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

from gpt2_jittor.runtime import overlay, runtime
from gpt2_jittor.runtime.cuda import home as cuda_home

HERE = Path(__file__).resolve().parent
NPP = cuda_home.OURS / "include" / "npp.h"  # of CUDA's overlay: the limits that Jittor reads of a library we do without
WHEEL = "nvidia-cuda-runtime-cu12"
INSTALL = "pip install -r requirements-cuda-emulation.txt"
LIBRARIES = {  # soname: sources
    "libcudart.so.12": ["counts", "memory", "device", "block", "warp", "launch", "sanitizer"],
    "libcublas.so.12": ["cublas"],
    "libcublasLt.so.12": [],
    "libcurand.so.10": ["curand"],
    "libnccl.so.2": ["nccl"],
    "libcuda.so.1": ["driver"],
}
CACHE = "EMULATED_GPU_CACHE"
ON_DEVICE = "CUDA_TESTS_ON_DEVICE"  # "1": `make cuda-check` runs the tests on the device that the machine has
COMPILE = ["g++", "-std=c++17", "-O3", "-Wall", "-shared", "-fPIC"]


def cache() -> Path:
    """The folder for what is built. Its path has no "cuda" in it, of which Jittor would warn."""
    named = os.environ.get(CACHE)
    return Path(named).resolve() if named else overlay.cache() / "emulated-gpu"


def nvidia_headers() -> Path:
    """The runtime's headers, of NVIDIA's wheel."""
    if not installed():
        sys.exit(f"error: {WHEEL} is not installed: {INSTALL}")
    header = next(file for file in importlib.metadata.files(WHEEL) if file.name == "cuda_runtime_api.h")
    return Path(header.locate()).resolve().parent


def installed() -> bool:
    """Whether NVIDIA's headers are there."""
    try:
        return bool(importlib.metadata.files(WHEEL))
    except importlib.metadata.PackageNotFoundError:
        return False


def version(*names: str) -> str:
    """Changes with every source of the compiler, and with those in the folders `names`."""
    state = hashlib.sha256(str(nvidia_headers()).encode() + NPP.read_bytes())
    for name in ("nvcc.py", "rewrite.py", "include", *names):
        for path in [HERE / name, *sorted((HERE / name).rglob("*"))]:
            state.update(str(path.relative_to(HERE)).encode() + (path.read_bytes() if path.is_file() else b""))
    return state.hexdigest()[:12]


def build() -> Path:
    """The CUDA home, built where it is missing or older than its sources."""
    home, wanted = cache() / "toolkit", version("runtime")
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = home / "version"
        if not stamp.is_file() or stamp.read_text() != wanted:
            new = home.with_name("toolkit.new")
            shutil.rmtree(new, ignore_errors=True)
            _place_headers(new / "include")
            _place_compiler(new, home)
            _compile_libraries(new)
            (new / "version").write_text(wanted)
            shutil.rmtree(home, ignore_errors=True)
            new.rename(home)
    return home


def _place_headers(include: Path) -> None:
    """Ours, and NVIDIA's where there is none of ours of that name; all of NVIDIA's under `nvidia/`."""
    shutil.copytree(HERE / "include", include)
    shutil.copy(NPP, include)
    theirs = nvidia_headers()
    (include / "nvidia").symlink_to(theirs)
    for path in theirs.iterdir():
        if not (include / path.name).exists():
            (include / path.name).symlink_to(path)


def _place_compiler(home: Path, final: Path) -> None:
    folder = home / "nvvm"
    folder.mkdir()
    for name in ("nvcc.py", "rewrite.py"):
        shutil.copy(HERE / name, folder / name)
    nvcc = home / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text(f'#!/bin/sh\nexec "{sys.executable}" -ESB "{final}/nvvm/nvcc.py" "$@"\n')
    nvcc.chmod(0o755)


def _compile_libraries(home: Path) -> None:
    folder = home / "lib64"
    folder.mkdir()
    for soname, names in LIBRARIES.items():
        files = [str(HERE / "runtime" / f"{name}.cc") for name in names] or ["-x", "c++", os.devnull]
        others = [] if soname == "libcuda.so.1" or "libcudart" in soname else [f"-L{folder}", "-lcudart"]
        found = ["-Wl,-rpath,$ORIGIN", f"-Wl,-soname,{soname}", f"-I{home / 'include'}"]
        subprocess.run([*COMPILE, *found, *files, *others, "-o", str(folder / soname)], check=True)
        (folder / soname.partition(".so")[0]).with_suffix(".so").symlink_to(soname)


def on_device() -> bool:
    """Whether the tests run on the machine's own device, of which nothing is counted."""
    return os.environ.get(ON_DEVICE) == "1"


def environment() -> dict[str, str]:
    """The variables with which Jittor, and this project, find the device."""
    if on_device():
        return dict(os.environ)
    home = build()
    paths = [str(home / "lib64"), os.environ.get("LD_LIBRARY_PATH", "")]
    # Jittor notes another home in the user's folder, and would use it ever after: so this user has another folder
    user = cache() / "home"
    user.mkdir(exist_ok=True)
    return os.environ | {
        "HOME": str(user),
        CACHE: str(cache()),  # else the default, below that folder: other libraries, which count nothing
        "nvcc_path": str(home / "bin" / "nvcc"),
        "nvcc_flags": f"-DEMULATION={version()}",  # kernels are compiled again when the compiler changes
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, paths)),
        "cuda_archs": "80",
        "cache_name": runtime.CORES,
    }


if __name__ == "__main__":
    print(build())
