"""The g++ that `nvcc` compiles with: each release accepts them up to one of its own."""

import os
import re
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

from gpt2_jittor.runtime.cuda.bounds import NEWEST_GXX, Release, since
from gpt2_jittor.runtime.cuda.driver import dotted
from gpt2_jittor.runtime.cuda.problem import Problem

HEADER = Path("crt", "host_config.h")


def newest(release: Release, include: Path) -> int:
    """The newest g++ that a toolkit accepts. Those of CUDA 13, of which there will be more, are asked themselves."""
    with suppress(OSError):
        said = re.search(r"#if __GNUC__ > (\d+)", (include / HEADER).read_text(encoding="utf-8", errors="replace"))
        if said and release >= (13, 0):
            return int(said[1])
    return since(NEWEST_GXX, release)


def choose(release: Release, bound: int, usual: str | None) -> tuple[str, Problem | None]:
    """The usual compiler, empty, where nvcc accepts it; else an accepted g++ that is installed; else what to install.

    One that `cc_path` names is not replaced. clang++ is let through.
    """
    version = _version(usual) if usual else None
    if version is None or version <= bound:
        return "", None
    if not os.environ.get("cc_path"):
        others = (shutil.which(f"g++-{number}") for number in range(bound, 4, -1))
        if other := next(filter(None, others), None):
            return other, None
    mend = f"apt install g++-{bound}" + (", and unset cc_path" if os.environ.get("cc_path") else "")
    return "", Problem(f"nvcc {dotted(release)} accepts g++ up to {bound}, and {usual} is {version}", mend)


def _version(path: str) -> int | None:
    """The major version of a g++, None for other compilers."""
    if "clang" in Path(path).name:
        return None
    said = re.match(r"(\d+)(\.\d+)*\s*$", said_by(path, "-dumpfullversion", "-dumpversion"))
    return int(said[1]) if said else None


def said_by(program: str, *options: str) -> str:
    """What a program prints; nothing where it cannot be run."""
    with suppress(OSError, subprocess.TimeoutExpired):
        ended = subprocess.run([program, *options], capture_output=True, text=True, timeout=60, check=False)
        return ended.stdout
    return ""
