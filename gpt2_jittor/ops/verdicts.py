"""Which of this project's CUDA kernels may run: those that have proved themselves here.

A kernel is compared with its composed definition once for each device, driver and source, when the first of them is
asked for. The verdicts stand beside the compiled kernels, in Jittor's cache. One that fails is never run again there.

It is done in a process of its own (`prove.py`), which costs Jittor's import, a few seconds. There, a kernel that
reaches beyond its arrays does not take the device from the run, and one that never ends can be ended; neither the graph
that is being built here nor the run's random numbers have any part in it. What is compiled there, the run finds again.
"""

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from common import processes
from common.errors import UserError
from common.files import read_json, write_json
from gpt2_jittor.ops.prove import OPERATORS
from gpt2_jittor.runtime.backend import jt
from gpt2_jittor.runtime.cuda import driver as drivers

HERE = Path(__file__).resolve().parent
SHARED = ("bits", "choice", "random", "shapes")  # of kernels/, those that the CPU and CUDA read alike
SOURCES = ("*.py", "kernels/cuda/*.cuh", *(f"kernels/{name}.h" for name in SHARED))  # what a verdict is about
KERNEL_MODULE = Path("/proc/driver/nvidia/version")  # the driver's own number; there is none in WSL
# no fault of a kernel's: the process was ended from outside, or the machine had no room
ENDED_FROM_OUTSIDE = {-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP}
NO_ROOM = ("out of memory", "MemoryAllocation", "ALLOC_FAILED", "No space left")
OF_MPI = ("OMPI_", "PMIX_", "PMI_")  # variables by which a process would believe that `mpirun` has started it
PROVE = """
import sys
sys.path.insert(0, sys.argv[1])
from gpt2_jittor.ops import prove
prove.prove(sys.argv[3:], sys.argv[2])
"""


@functools.cache
def proved(kernel: str) -> bool:
    """Whether the kernel agrees with its composed definition on this device; says so on stderr where it does not."""
    problem = _verdicts().get(kernel)
    if problem:
        _say(
            f"warning: the CUDA kernel {kernel} failed its check on {_device()}: {problem}. Composed operators run in "
            f"its place, more slowly; please report it, with {_place().with_suffix('.log')}"
        )
    return problem == ""


@functools.cache
def _verdicts() -> dict[str, str]:
    """Of each kernel what is wrong with it, empty where nothing is; without those that could not be checked."""
    path = _place()
    with _alone(path.with_name("cuda-kernels.lock")):  # processes that start together wait for the first one's verdicts
        kept = _kept(path)
        if missing := _missing(kept):
            _say(f"Checking the CUDA kernels on {_device()} (once; they are compiled for it) ...")
        while missing:
            ended = _prove(missing)
            if not (told := _judged(missing, ended)):
                _say(
                    f"warning: the CUDA kernels {', '.join(missing)} could not be checked ({_last_line(ended)}): "
                    "composed operators run in their place this time"
                )
                break
            if any(told.values()):
                with path.with_suffix(".log").open("a", encoding="utf-8") as log:
                    log.write(ended.stderr)
            kept |= told
            write_json(path, {"device": _device(), "kernels": kept})
            missing = _missing(kept)
    return kept


def _missing(kept: dict[str, str]) -> list[str]:
    return [kernel for kernel in OPERATORS if kernel not in kept]


def _kept(path: Path) -> dict[str, str]:
    with contextlib.suppress(UserError, AttributeError, KeyError):  # none yet, or one that somebody has changed
        return {kernel: problem for kernel, problem in read_json(path)["kernels"].items() if kernel in OPERATORS}
    return {}


def _prove(kernels: Sequence[str]) -> subprocess.CompletedProcess:
    """The process that proves them, ended."""
    return subprocess.run(
        [sys.executable, "-c", PROVE, str(HERE.parents[1]), str(jt.flags.cache_path), *kernels],
        env=_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C is the run's own matter
        check=False,
    )


def _environment() -> dict[str, str]:
    """This process's, of one that runs by itself and asks for no verdicts."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OF_MPI)}
    return kept | {"use_mpi": "0", "GPT2_JITTOR_CUDA_KERNELS": "0"}


def _judged(kernels: Sequence[str], ended: subprocess.CompletedProcess) -> dict[str, str]:
    """What a process has found out; where it died, also that the kernel it was at is to blame."""
    told = dict(json.loads(line) for line in ended.stdout.splitlines())
    if told.pop("", None) is None:  # it died before the first
        return {}
    left = [kernel for kernel in kernels if kernel not in told]
    if left and ended.returncode and ended.returncode not in ENDED_FROM_OUTSIDE:
        told[left[0]] = _last_words(ended)
    if any(words in ended.stderr for words in NO_ROOM):
        return {kernel: problem for kernel, problem in told.items() if not problem}
    return told


def _last_words(ended: subprocess.CompletedProcess) -> str:
    if ended.returncode == -signal.SIGALRM:
        return "it did not come to an end"
    return f"it ended the process with status {ended.returncode} ({_last_line(ended)})"


def _last_line(ended: subprocess.CompletedProcess) -> str:
    lines = ended.stderr.strip().splitlines()
    return lines[-1].strip()[:200] if lines else "without a word"


def _device() -> str:
    return _driver().devices[0].name


@functools.cache
def _driver() -> drivers.Driver:
    return drivers.ask()


def _place() -> Path:
    """The file of the verdicts on this device, driver and source, as they are compiled."""
    driver = _driver()
    device = driver.devices[0]  # Jittor's folder is of one toolkit and one Jittor
    module = KERNEL_MODULE.read_text(encoding="utf-8") if KERNEL_MODULE.exists() else ""
    about = repr((device.name, device.capability, driver.release, module, jt.__version__, jt.flags.nvcc_flags))
    state = hashlib.sha256(about.encode())
    for path in sorted(path for pattern in SOURCES for path in HERE.glob(pattern)):
        state.update(path.name.encode() + path.read_bytes())
    return Path(jt.flags.cache_path) / f"cuda-kernels-{state.hexdigest()[:12]}.json"


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with lock.open("a") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield


def _say(line: str) -> None:
    if processes.is_first():
        print(line, file=sys.stderr, flush=True)
