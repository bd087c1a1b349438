"""The CUDA toolkit that Jittor would compile with: which there are, and which of them is taken."""

import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from gpt2_jittor.runtime.cuda import bounds, gxx, home, parts
from gpt2_jittor.runtime.cuda.bounds import Release
from gpt2_jittor.runtime.cuda.driver import Driver, dotted
from gpt2_jittor.runtime.cuda.parts import Place
from gpt2_jittor.runtime.cuda.problem import Problem

USUAL = Path("/usr/local")  # holds cuda, a link, and cuda-12.6 and others that it may point at


@dataclass(frozen=True)
class Toolkit:
    """An `nvcc` and its release, (0, 0) where it does not say; the newest g++ it accepts, 0 where it is no use at all.

    `compiler` is the g++ that must stand in for the usual one, empty where that will do. `elsewhere` are the places of
    the parts that are not beside `nvcc`.
    """

    nvcc: str = ""
    release: Release = (0, 0)
    compiler: str = ""
    newest_gxx: int = 0
    problem: Problem | None = None
    elsewhere: dict[str, Place] = field(default_factory=dict)

    def jittors_nvcc(self) -> str:
        """The `nvcc` that Jittor is given: of CUDA 13 the one of a folder of ours (`home`), which this makes.

        Raises UserError where that cannot be written.
        """
        return home.make(self.nvcc, self.elsewhere) if self.release >= parts.SPLIT else self.nvcc


def find(driver: Driver, compiler: str | None) -> Toolkit:
    """The first toolkit that Jittor can use, else the first there is, else an empty one; each with its problem.

    `nvcc_path` in the environment names the one to take; then the PATH is searched, /usr/local, and what pip has
    installed. `compiler` is what Jittor would compile with on the CPU.
    """
    candidates = [os.environ.get("nvcc_path")]
    if not candidates[0]:
        usual = [USUAL / "cuda", *sorted(USUAL.glob("cuda-*"), reverse=True)]
        candidates = [shutil.which("nvcc"), *(shutil.which(str(folder / "bin" / "nvcc")) for folder in usual)]
        candidates.append(parts.wheels_nvcc())
    found = [_examined(nvcc, driver, compiler) for nvcc in dict.fromkeys(candidates) if nvcc]
    usable = [toolkit for toolkit in found if not toolkit.problem]
    absent = Toolkit(problem=Problem("nvcc was not found", bounds.how_to_install(driver)))
    return (usable + found or [absent])[0]


def _examined(nvcc: str, driver: Driver, compiler: str | None) -> Toolkit:
    release = _release(nvcc)
    problem = _broken(nvcc, release, driver)
    problem = problem or bounds.other_driver(release, driver) or bounds.other_device(release, driver)
    if problem:
        return Toolkit(nvcc, release, problem=problem)
    elsewhere = parts.elsewhere(nvcc)[0] if release >= parts.SPLIT else {}
    newest = gxx.newest(release, parts.home(nvcc).include)
    accepted, problem = gxx.choose(release, newest, compiler)
    return Toolkit(nvcc, release, accepted, newest, problem, elsewhere)


def own_programs_first(nvcc: str) -> dict[str, str]:
    """The PATH to run this `nvcc` with, where another toolkit's programs come first on it; else nothing.

    Debian's nvcc takes the first `ptxas` there is, be it of another release, which knows other devices.
    """
    own, first = Path(nvcc).parent, shutil.which("ptxas")
    if first is None or Path(first).parent == own or not (own / "ptxas").exists():
        return {}
    return {"PATH": os.pathsep.join([str(own), os.environ["PATH"]])}


def _release(nvcc: str) -> Release:
    """The CUDA release that this `nvcc` belongs to; (0, 0) where it does not say."""
    said = re.search(r"release (\d+)\.(\d+)", gxx.said_by(nvcc, "--version"))
    return (int(said[1]), int(said[2])) if said else (0, 0)


def _broken(nvcc: str, release: Release, driver: Driver) -> Problem | None:
    """What keeps Jittor's core from being compiled with it."""
    if release == (0, 0):
        return Problem(f"{nvcc} does not tell its version", "point nvcc_path at the nvcc of a CUDA toolkit")
    install = bounds.how_to_install(driver)
    if not bounds.OLDEST <= release < bounds.TOO_NEW:
        return Problem(f"Jittor 1.3.11 compiles against CUDA 10.2 to 13, not {dotted(release)}", install)
    missing = parts.missing(nvcc, release)
    if missing and os.name == "posix":
        return Problem(f"{nvcc} is not of a whole toolkit, {missing} is missing", install)
    return None
