"""What this machine has of all that training needs, and how to get the rest: `python -m gpt2_jittor.doctor`.

One function a check, each with one row of the table. Ends with status 1 where training cannot run. It is for
machines on which something is missing: it takes nothing outside the standard library for granted, and asks
packages in processes of their own.
"""

import contextlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from common.command import Parser, run_command
from common.errors import UserError
from common.files import read_json
from gpt2_jittor import runtime

ROOT = Path(__file__).resolve().parent.parent
INSTALL = f"{Path(sys.executable).name} -m pip install -r requirements.txt"
PYTHON_TESTED, PYTHON_TOO_NEW = (3, 11), (3, 13)  # numpy 1.26, the last that Jittor can use, ends with 3.12
JITTOR_TESTED = "1.3.11.0"
SCARCE, TOO_LITTLE = 2e9, 0.5e9  # bytes, of memory and of disk
HUB_SECONDS = 3


@dataclass(frozen=True)
class Row:
    """One check: `status` is "ok", "warning" or "failed"; `mend` says what to do unless all is well."""

    name: str
    status: str
    found: str
    mend: str = ""


def python() -> Row:
    here = sys.version_info[:2]
    found = f"{platform.python_version()} at {sys.executable}"
    status = "ok" if here == PYTHON_TESTED else "warning" if PYTHON_TESTED < here < PYTHON_TOO_NEW else "failed"
    return Row("Python", status, found, "3.11 is what is tested, 3.12 may run: python3.11 -m venv .venv")


def compiler() -> Row:
    path = runtime.find_compiler()
    if path is None:
        return Row("compiler", "failed", "none, and Jittor compiles its operators", runtime.INSTALL_COMPILER)
    runs, said = _run(path, "--version")
    if not runs:
        return Row("compiler", "failed", f"{path} does not run: {said[-1]}", runtime.INSTALL_COMPILER)
    return Row("compiler", "ok", f"{said[0]} at {path}")


def headers() -> Row:
    name, python = "Python headers", f"python3.{sys.version_info.minor}"
    folder, config = sysconfig.get_path("include"), runtime.find_python_config()
    if not Path(folder, "Python.h").is_file():
        return Row(name, "failed", f"no Python.h in {folder}", f"install them (Debian: apt install {python}-dev)")
    if config is None or _run(config, "--extension-suffix")[1][-1] != sysconfig.get_config_var("EXT_SUFFIX"):
        found = f"{config} belongs to another Python" if config else f"no {python}-config"
        return Row(name, "failed", found, f"apt install {python}-dev, or point python_config_path at {python}-config")
    return Row(name, "ok", f"{folder}, by {config}")


def numpy() -> Row:
    version = _installed("numpy")
    if version is None or int(version.split(".")[0]) >= 2:
        return Row("numpy", "failed", f"{version or 'not installed'}; Jittor needs numpy 1", INSTALL)
    imported, said = _run(sys.executable, "-c", "import numpy")
    if not imported:
        return Row("numpy", "failed", f"{version}, cannot be imported: {said[-1]}", f"{INSTALL} --force-reinstall")
    return Row("numpy", "ok", version)


def jittor() -> Row:
    version = _installed("jittor")
    if version is None:
        return Row("Jittor", "failed", "not installed", INSTALL)
    if version != JITTOR_TESTED:
        return Row("Jittor", "warning", f"{version}; {JITTOR_TESTED} is what is tested", INSTALL)
    works, said = _run(sys.executable, "-c", "from gpt2_jittor import runtime; print(runtime.core_is_compiled())")
    if not works:
        mend = f"mend the other rows; if that is not it: {INSTALL} --force-reinstall"
        return Row("Jittor", "failed", f"{version}, cannot be imported: {said[-1]}", mend)
    if said[-1] != "True":
        return Row("Jittor", "warning", f"{version}, not compiled yet", "compiled at first use, about 4 minutes")
    return Row("Jittor", "ok", f"{version}, compiled in {_jittor_cache()}")


def packages() -> Row:
    """The rest of requirements.txt; lines with a marker, for some platforms only, are oneDNN's."""
    pins = re.findall(r"^([\w.-]+)==([\w.]+)\s*(?:#.*)?$", (ROOT / "requirements.txt").read_text("utf-8"), re.MULTILINE)
    installed = {name: _installed(name) for name, _ in pins if name not in ("jittor", "numpy")}
    if missing := [name for name, version in installed.items() if version is None]:
        return Row("packages", "failed", f"not installed: {', '.join(missing)}", INSTALL)
    if other := [f"{name} {version}" for name, version in installed.items() if (name, version) not in pins]:
        return Row("packages", "warning", f"not as pinned: {', '.join(other)}", INSTALL)
    return Row("packages", "ok", "as pinned in requirements.txt")


def onednn() -> Row:
    if found := runtime.find_onednn():
        return Row("oneDNN", "ok", f"pip's {_installed('onednn-cpu-gomp')} at {found[1]}")
    if any(path.is_file() for path in _jittor_cache().glob("mkl/dnnl*/lib/libmkldnn.*")):
        return Row("oneDNN", "ok", "in Jittor's cache from earlier")
    if platform.system() == "Linux" and platform.machine() == "x86_64":
        return Row("oneDNN", "warning", "not installed; Jittor downloads its own at the first import", INSTALL)
    return Row("oneDNN", "warning", "no package for this platform", "Jittor downloads its own: needs a network once")


def driver() -> Row:
    cuda, name = runtime.find_cuda(), "NVIDIA driver"
    found = f"supports CUDA {runtime.dotted(cuda.driver)}; devices: {cuda.devices}"
    if cuda.devices:
        return Row(name, "ok", found)
    if cuda.driver != (0, 0):
        return Row(name, "warning", f"{found}: training runs on the CPU", "see nvidia-smi and CUDA_VISIBLE_DEVICES")
    if cuda.nvcc:
        mend = "for a GPU: install the driver; in a container, start it with the GPUs (docker run --gpus all)"
        return Row(name, "warning", f"none, though {cuda.nvcc} is there: training runs on the CPU", mend)
    return Row(name, "ok", "none: training runs on the CPU")


def toolkit() -> Row:
    cuda, name = runtime.find_cuda(), "CUDA toolkit"
    found = f"{runtime.dotted(cuda.toolkit)} by {cuda.nvcc}" if cuda.nvcc else "none"
    problem = cuda.problem if cuda.devices else cuda.nvcc and runtime.toolkit_problem(cuda.nvcc, cuda.toolkit)
    if problem:
        return Row(name, "warning", f"{found}: training runs on the CPU", problem)
    return Row(name, "ok", found if cuda.nvcc else "none: not needed on the CPU")


def cudnn() -> Row:
    return Row("cuDNN", "ok", "not needed: GPT-2 has no convolution")


def mpi() -> Row:
    mpirun = runtime.find_mpi("mpirun")
    if mpirun is None:
        return Row("MPI", "ok", f"none: not needed for one process; for several {runtime.INSTALL_MPI}")
    said = _run(mpirun, "--version")[1][0]
    if "Open MPI" not in said:
        return Row("MPI", "warning", f"{mpirun} is not Open MPI's, which Jittor needs: {said}", runtime.INSTALL_MPI)
    if runtime.find_mpi("mpicc") is None:
        return Row("MPI", "warning", f"{said} without mpicc, which Jittor compiles with", runtime.INSTALL_MPI)
    return Row("MPI", "ok", f"{said} at {mpirun}")


def memory() -> Row:
    known = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with contextlib.suppress(OSError, TypeError):  # Linux only
        known.append(1024 * int(re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())[1]))
    with contextlib.suppress(OSError, ValueError):  # a container's limit; "max" where there is none
        known.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    found = f"{min(known) / 1e9:,.1f} GB available"
    return Row("memory", _enough(min(known)), found, "use --model nano or a smaller --batch-size")


def disk() -> Row:
    cache = _jittor_cache()
    free = {}
    for folder in (next(path for path in (cache, *cache.parents) if path.exists()), Path.cwd()):
        if not os.access(folder, os.W_OK):
            return Row("disk", "failed", f"{folder} cannot be written", "change its owner or its permissions")
        free[folder] = shutil.disk_usage(folder).free
    found = "; ".join(f"{size / 1e9:,.1f} GB free in {folder}" for folder, size in free.items())
    return Row("disk", _enough(min(free.values())), found, "make room, or set JITTOR_HOME to a folder elsewhere")


def hub() -> Row:
    endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    problem = ["no answer"]
    # A name server that does not answer holds urllib beyond its timeout; a thread can be left behind.
    asking = threading.Thread(target=lambda: problem.append(_unreachable(endpoint)), daemon=True)
    asking.start()
    asking.join(HUB_SECONDS + 1)
    if problem[-1]:
        mend = "local folders, the hub's cache and --model nano work offline; for a mirror set HF_ENDPOINT"
        return Row("hub", "warning", f"{endpoint} cannot be reached: {problem[-1]}", mend)
    return Row("hub", "ok", f"{endpoint} answers")


CHECKS = (python, compiler, headers, numpy, jittor, packages, onednn, driver, toolkit, cudnn, mpi, memory, disk, hub)


def examine() -> list[Row]:
    """All rows. A check that breaks is itself a row: this must run where nothing else does."""
    rows = []
    for check in CHECKS:
        try:
            rows.append(check())
        except Exception as error:
            broken = f"the check itself broke: {type(error).__name__}: {error}"
            rows.append(Row(check.__name__, "failed", broken, f"{INSTALL} --force-reinstall"))
    return rows


def main() -> int:
    Parser(prog="python -m gpt2_jittor.doctor", description=__doc__).parse_args()
    rows = examine()
    width = max(len(row.name) for row in rows)
    for row in rows:
        print(f"{row.name:<{width}}  {row.status:<7}  {row.found}")
        if row.status != "ok":
            print(f"{'':<{width}}           -> {row.mend}")
    failed = [row.name for row in rows if row.status == "failed"]
    print(f"\nTraining cannot run here yet: {', '.join(failed)}." if failed else "\nTraining can run here.")
    return 1 if failed else 0


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _run(*command: str | Path) -> tuple[bool, list[str]]:
    """Whether a command succeeds, and the lines it says; at least one."""
    try:
        ended = subprocess.run(command, capture_output=True, cwd=ROOT, errors="replace", timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return False, [str(error)]
    return ended.returncode == 0, (ended.stderr + ended.stdout).strip().splitlines() or [""]


def _jittor_cache() -> Path:
    """Where Jittor keeps what it compiles: it remembers the last JITTOR_HOME in its config.json."""
    home = os.environ.get("JITTOR_HOME")
    if not home:
        with contextlib.suppress(UserError):
            home = read_json(Path.home() / ".cache" / "jittor" / "config.json").get("JITTOR_HOME")
    return Path(home or Path.home(), ".cache", "jittor")


def _enough(size: float) -> str:
    return "ok" if size >= SCARCE else "warning" if size >= TOO_LITTLE else "failed"


def _unreachable(address: str) -> str:
    """Why this address cannot be reached; empty where a server answers, be it with a refusal."""
    try:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=HUB_SECONDS).close()
    except urllib.error.HTTPError as error:
        return f"status {error.code}" if error.code >= 500 else ""
    except Exception as error:  # the network's, the proxy's, or a malformed address's
        return str(getattr(error, "reason", error))
    return ""


if __name__ == "__main__":
    run_command(main)
