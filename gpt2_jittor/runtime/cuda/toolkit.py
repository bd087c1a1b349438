"""The CUDA toolkit that Jittor would compile with: where it is, what it accepts, which g++ goes with it.

The bounds are Jittor 1.3.11's (jittor/compiler.py), and those of the toolkits it takes, of which there will be no more.
"""

import contextlib
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from gpt2_jittor.runtime.cuda.driver import Device, Driver, dotted, how_to_update
from gpt2_jittor.runtime.cuda.problem import Problem

Release = tuple[int, int]

USUAL = Path("/usr/local")  # holds cuda, a link, and cuda-12.6 and others that it may point at
DISTRIBUTION = "/usr/bin/nvcc"  # Debian's and Ubuntu's own package; Jittor, too, knows this case
DISTRIBUTION_LIBRARIES = Path("/usr/lib/x86_64-linux-gnu")
LIBRARIES = ("libcudart.so", "libcublas.so", "libcurand.so")

OLDEST, TOO_NEW = (10, 2), (13, 0)  # CUDA 13 dropped members of cudaDeviceProp that Jittor reads
# From each release on: the newest g++ that its crt/host_config.h accepts. 11.4 to 11.6 also let g++ 11 through, and
# then break over the standard library of its later versions ("parameter packs not expanded").
NEWEST_GXX = {(10, 2): 8, (11, 0): 9, (11, 1): 10, (11, 7): 11, (12, 0): 12, (12, 4): 13, (12, 8): 14}
# From each release on: the oldest device it compiles for, and the newest that Jittor lets it compile for. Jittor adds
# no PTX: what was compiled for 8.6 also runs on 8.9, but not on 9.0.
CAPABILITIES = {
    (10, 2): ((3, 0), (7, 5)),
    (11, 0): ((3, 5), (8, 0)),
    (11, 1): ((3, 5), (8, 6)),
    (11, 8): ((3, 5), (9, 0)),
    (12, 0): ((5, 0), (9, 0)),
}
ADVISED = {11: (11, 8), 12: (12, 6)}  # 12.6 is packaged for every Ubuntu since 22.04 and takes the g++ of each
WHERE_FROM = "docs/cuda.md has the repository"


@dataclass(frozen=True)
class Toolkit:
    """An `nvcc` and its release, (0, 0) where it does not say; the newest g++ it accepts, 0 where it is no use at all.

    `compiler` is the g++ that must stand in for the usual one, empty where that will do.
    """

    nvcc: str = ""
    release: Release = (0, 0)
    compiler: str = ""
    newest_gxx: int = 0
    problem: Problem | None = None


def find(driver: Driver, compiler: str | None) -> Toolkit:
    """The first toolkit that Jittor can use, else the first there is, else an empty one; each with its problem.

    `nvcc_path` in the environment names the one to take; then the PATH is searched, then /usr/local. `compiler` is
    what Jittor would compile with on the CPU.
    """
    candidates = [os.environ.get("nvcc_path")]
    if not candidates[0]:
        usual = [USUAL / "cuda", *sorted(USUAL.glob("cuda-*"), reverse=True)]
        candidates = [shutil.which("nvcc"), *(shutil.which(str(folder / "bin" / "nvcc")) for folder in usual)]
    found = [_examined(nvcc, driver, compiler) for nvcc in dict.fromkeys(candidates) if nvcc]
    usable = [toolkit for toolkit in found if not toolkit.problem]
    absent = Toolkit(problem=Problem("nvcc was not found", _install(driver)))
    return (usable + found or [absent])[0]


def _examined(nvcc: str, driver: Driver, compiler: str | None) -> Toolkit:
    release = nvcc_release(nvcc)
    if problem := _broken(nvcc, release, driver) or _other_driver(release, driver):
        return Toolkit(nvcc, release, problem=problem)
    if problem := next(filter(None, (_other_device(release, device) for device in driver.devices)), None):
        return Toolkit(nvcc, release, problem=problem)
    newest = _since(NEWEST_GXX, release)
    accepted, problem = _host_compiler(release, newest, compiler)
    return Toolkit(nvcc, release, accepted, newest, problem)


def own_programs_first(nvcc: str) -> dict[str, str]:
    """The PATH to run this `nvcc` with, where another toolkit's programs come first on it; else nothing.

    Debian's nvcc takes the first `ptxas` there is, be it of another release, which knows other devices.
    """
    own, first = Path(nvcc).parent, shutil.which("ptxas")
    if first is None or Path(first).parent == own or not (own / "ptxas").exists():
        return {}
    return {"PATH": os.pathsep.join([str(own), os.environ["PATH"]])}


def nvcc_release(nvcc: str) -> Release:
    """The CUDA release that this `nvcc` belongs to; (0, 0) where it does not say."""
    said = re.search(r"release (\d+)\.(\d+)", _said(nvcc, "--version"))
    return (int(said[1]), int(said[2])) if said else (0, 0)


def _broken(nvcc: str, release: Release, driver: Driver) -> Problem | None:
    """What keeps Jittor's core from being compiled with it."""
    if release == (0, 0):
        return Problem(f"{nvcc} does not tell its version", "point nvcc_path at the nvcc of a CUDA toolkit")
    if not OLDEST <= release < TOO_NEW:
        return Problem(f"Jittor 1.3.11 compiles against CUDA 10.2 to 12, not {dotted(release)}", _install(driver))
    folder = DISTRIBUTION_LIBRARIES if nvcc == DISTRIBUTION else Path(nvcc).resolve().parent.parent / "lib64"
    missing = [name for name in LIBRARIES if not (folder / name).exists()]
    if missing and os.name == "posix":
        return Problem(f"{nvcc} is not of a whole toolkit, {folder / missing[0]} is missing", _install(driver))
    return None


def _other_driver(release: Release, driver: Driver) -> Problem | None:
    """Since CUDA 11 a driver runs what any toolkit of its major release has compiled to machine code."""
    needed = (release[0], 0) if release[0] >= 11 else release
    if not driver.devices or driver.release >= needed:
        return None
    what = f"the driver supports CUDA {dotted(driver.release)}, older than the toolkit's {dotted(release)}"
    older = f"; or {_install(driver)}" if driver.release[0] in ADVISED else ""
    return Problem(what, how_to_update() + older)


def _other_device(release: Release, device: Device) -> Problem | None:
    oldest, newest = _since(CAPABILITIES, release)
    if device.capability[0] > newest[0]:
        fitting = [since for since, (_, bound) in CAPABILITIES.items() if bound[0] >= device.capability[0]][:1]
        verdict = "new"
    elif device.capability < oldest:
        fitting = [since for since, (bound, _) in CAPABILITIES.items() if bound <= device.capability][-1:]
        verdict = "old"
    else:
        return None
    mend = "Jittor 1.3.11 takes no other that does; hide the device by CUDA_VISIBLE_DEVICES, or use the CPU"
    if fitting:
        mend = _package(ADVISED[fitting[0][0]]) if fitting[0][0] in ADVISED else f"install CUDA {dotted(fitting[0])}"
    return Problem(f"CUDA {dotted(release)} does not compile for {device}, which is too {verdict}", mend)


def _host_compiler(release: Release, newest: int, usual: str | None) -> tuple[str, Problem | None]:
    """The usual compiler, empty, where nvcc accepts it; else an accepted g++ that is installed; else what to install.

    One that `cc_path` names is not replaced. clang++ is let through.
    """
    version = gxx_version(usual) if usual else None
    if version is None or version <= newest:
        return "", None
    if not os.environ.get("cc_path"):
        others = (shutil.which(f"g++-{number}") for number in range(newest, 4, -1))
        if other := next(filter(None, others), None):
            return other, None
    mend = f"apt install g++-{newest}" + (", and unset cc_path" if os.environ.get("cc_path") else "")
    return "", Problem(f"nvcc {dotted(release)} accepts g++ up to {newest}, and {usual} is {version}", mend)


def gxx_version(path: str) -> int | None:
    """The major version of a g++, None for other compilers."""
    if "clang" in Path(path).name:
        return None
    said = re.match(r"(\d+)(\.\d+)*\s*$", _said(path, "-dumpfullversion", "-dumpversion"))
    return int(said[1]) if said else None


def _since(table: dict[Release, object], release: Release):
    """The entry of the last release that is not after this one."""
    return table[max(since for since in table if since <= release)]


def _install(driver: Driver) -> str:
    return _package(ADVISED.get(driver.release[0], ADVISED[12]))


def _package(release: Release) -> str:
    return f"apt install cuda-toolkit-{release[0]}-{release[1]} ({WHERE_FROM})"


def _said(program: str, *options: str) -> str:
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        ended = subprocess.run([program, *options], capture_output=True, text=True, timeout=60, check=False)
        return ended.stdout
    return ""
