"""The programs and packages that training needs, a check each."""

import platform
import re
import sys
import sysconfig
from pathlib import Path

from gpt2_jittor.doctor.row import INSTALL, ROOT, Row, installed, jittor_cache, run
from gpt2_jittor.runtime import cpu, mends, runtime

PYTHON_OLDEST, PYTHON_NEWEST, PYTHON_NEXT = (3, 10), (3, 13), (3, 14)
OTHER_ROWS = ("jittor", "numpy", "onednn-cpu-gomp", "onednn-devel-cpu-gomp")
NUMPY_MAJORS = ("1", "2")  # whose binary interfaces Jittor and its mends know


def python() -> Row:
    """3.10 to 3.13 are what is tested; 3.14 is a warning, every other version fails."""
    here = sys.version_info[:2]
    found = f"{platform.python_version()} at {sys.executable}"
    status = "ok" if PYTHON_OLDEST <= here <= PYTHON_NEWEST else "warning" if here == PYTHON_NEXT else "failed"
    return Row("Python", status, found, "3.10 to 3.13 are tested: `make clean`, then `make setup PYTHON=python3.12`")


def compiler() -> Row:
    """The C++ compiler; fails where there is none, or where it does not run."""
    path = runtime.find_compiler()
    if path is None:
        return Row("compiler", "failed", "none, and Jittor compiles its operators", runtime.INSTALL_COMPILER)
    runs, said = run(path, "--version")
    if not runs:
        return Row("compiler", "failed", f"{path} does not run: {said[-1]}", runtime.INSTALL_COMPILER)
    return Row("compiler", "ok", f"{said[0]} at {path}")


def headers() -> Row:
    """Python.h, and the python-config by which Jittor finds it; fails where that is another Python's."""
    name, python = "Python headers", f"python3.{sys.version_info.minor}"
    folder, config = sysconfig.get_path("include"), runtime.find_python_config()
    if not Path(folder, "Python.h").is_file():
        return Row(name, "failed", f"no Python.h in {folder}", f"install them (Debian: apt install {python}-dev)")
    if config is None or run(config, "--extension-suffix")[1][-1] != sysconfig.get_config_var("EXT_SUFFIX"):
        found = f"{config} belongs to another Python" if config else f"no {python}-config"
        return Row(name, "failed", found, f"apt install {python}-dev, or point python_config_path at {python}-config")
    return Row(name, "ok", f"{folder}, by {config}")


def numpy() -> Row:
    """Fails from numpy 3 on, and where it cannot be imported."""
    version = installed("numpy")
    if version is None or version.split(".")[0] not in NUMPY_MAJORS:
        return Row("numpy", "failed", f"{version or 'not installed'}; Jittor needs numpy 1 or 2", INSTALL)
    imported, said = run(sys.executable, "-c", "import numpy")
    if not imported:
        return Row("numpy", "failed", f"{version}, cannot be imported: {said[-1]}", f"{INSTALL} --force-reinstall")
    return Row("numpy", "ok", version)


def jittor() -> Row:
    """Whether Jittor is there, and compiled. Asks a process of its own, which takes seconds."""
    version = installed("jittor")
    if version is None:
        return Row("Jittor", "failed", "not installed", INSTALL)
    if version != mends.RELEASE:
        return Row("Jittor", "failed", f"{version}; {mends.RELEASE} is what this runs on", INSTALL)
    works, said = run(
        sys.executable, "-c", "from gpt2_jittor.runtime.runtime import core_is_compiled; print(core_is_compiled())"
    )
    if not works:
        mend = f"mend the other rows; if that is not it: {INSTALL} --force-reinstall"
        return Row("Jittor", "failed", f"{version}, cannot be imported: {said[-1]}", mend)
    if said[-1] != "True":
        return Row("Jittor", "warning", f"{version}, not compiled yet", "compiled at first use, about 4 minutes")
    return Row("Jittor", "ok", f"{version}, compiled in {jittor_cache()}")


def packages() -> Row:
    """The rest of requirements.txt. Of a package that has several lines, each for some Pythons, any will do."""
    pins = re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / "requirements.txt").read_text("utf-8"), re.MULTILINE)
    present = {name: installed(name) for name, _ in pins if name not in OTHER_ROWS}
    if missing := [name for name, version in present.items() if version is None]:
        return Row("packages", "failed", f"not installed: {', '.join(missing)}", INSTALL)
    if other := [f"{name} {version}" for name, version in present.items() if (name, version) not in pins]:
        return Row("packages", "warning", f"not as pinned: {', '.join(other)}", INSTALL)
    return Row("packages", "ok", "as pinned in requirements.txt")


def onednn() -> Row:
    """The library that multiplies float32 matrices on the CPU. Never fails: Jittor may download its own."""
    if found := runtime.find_onednn():
        return Row("oneDNN", "ok", f"pip's {installed('onednn-cpu-gomp')} at {found[1]}")
    if any(path.is_file() for path in jittor_cache().glob("mkl/dnnl*/lib/libmkldnn.*")):
        return Row("oneDNN", "ok", "in Jittor's cache from earlier")
    if platform.system() == "Linux" and platform.machine() == "x86_64":
        return Row("oneDNN", "warning", "not installed; Jittor downloads its own at the first import", INSTALL)
    return Row("oneDNN", "warning", "no package for this platform", "Jittor downloads its own: needs a network once")


def int8() -> Row:
    """How products with an int8 base (`train.py --base int8`) are made here. Never fails: every processor has a way."""
    if instructions := cpu.int8_instructions():
        return Row("int8 products", "ok", f"by the processor's {instructions} instructions (train.py --base int8)")
    return Row("int8 products", "ok", "through float32, without VNNI or AMX: --base int8 saves memory, not time")


def bf16() -> Row:
    """Whether products can be made in bfloat16 here (`--precision bf16`). Never fails: float32 is always there."""
    if instructions := cpu.bf16_instructions():
        return Row("bf16 products", "ok", f"by the processor's {instructions} instructions (--precision bf16)")
    return Row("bf16 products", "ok", "none on this processor, without AVX512_BF16 or AMX: float32 is its precision")


def mpi() -> Row:
    """Open MPI, for several processes. Never fails: one process needs none."""
    mpirun = runtime.find_mpi("mpirun")
    if mpirun is None:
        return Row("MPI", "ok", f"none: not needed for one process; for several {runtime.INSTALL_MPI}")
    said = run(mpirun, "--version")[1][0]
    if "Open MPI" not in said:
        return Row("MPI", "warning", f"{mpirun} is not Open MPI's, which Jittor needs: {said}", runtime.INSTALL_MPI)
    if runtime.find_mpi("mpicc") is None:
        return Row("MPI", "warning", f"{said} without mpicc, which Jittor compiles with", runtime.INSTALL_MPI)
    return Row("MPI", "ok", f"{said} at {mpirun}")
