"""Jittor's environment, decided before Jittor is imported. Only this file touches it.

Jittor reads environment variables at import, downloads what it thinks is missing and dies where it cannot.
`prepare` settles all of that first: pip's oneDNN where Jittor looks for its own, CUDA only where it can
really run, no downloads that GPT-2 has no use for, no log chatter. `gpt2_jittor.runtime.backend` then imports Jittor.
"""

import contextlib
import ctypes
import importlib.metadata
import os
import platform
import shutil
import sys
import sysconfig
from pathlib import Path

from common import processes
from common.errors import ParameterError, UserError
from common.interrupt import interrupts_deferred
from gpt2_jittor.runtime import cuda, kernel_cache, mends, process
from gpt2_jittor.runtime.cuda import Cuda, nccl

DEVICES = ("auto", "cpu", "cuda")
CORES = "mended"  # not Jittor's own "default": of two cores in one folder each has Jittor compile itself again
CUDA_CORES = "-cuda"  # ends the name of a folder of cores for CUDA
INSTALL_COMPILER = "install it (Debian: apt install g++; macOS: xcode-select --install)"
INSTALL_MPI = "apt install openmpi-bin libopenmpi-dev, or pip install -r requirements-mpi.txt"


_chosen: str | None = None


def prepare(device: str = "auto") -> str:
    """Settles the environment once and returns the device that will be used, "cpu" or "cuda".

    Raises UserError where `device` is "cuda" and CUDA cannot be used, or where there is no compiler.
    Later calls return the first call's answer.
    """
    global _chosen
    if _chosen is None:
        _chosen = _prepare(device)
    elif device != "auto" and device != _chosen:
        raise UserError(f"this process already runs Jittor on {_chosen}; start another one for {device}")
    return _chosen


def _prepare(device: str) -> str:
    if device not in DEVICES:
        known = ", ".join(DEVICES)
        raise ParameterError("{device} {value} is unknown; choose one of {known}", value=device, known=known)
    if os.name == "posix" and not find_compiler():
        raise UserError(f"{_compiler()} was not found; Jittor compiles its operators: {INSTALL_COMPILER}")
    os.environ.setdefault("log_silent", "1")
    # GNU OpenMP's threads spin for milliseconds at every barrier: two processes on one machine then starve each other
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    # Jittor would import PyTorch, where there is one, for the sake of versions before 1.8: 2 s and 180 MB
    os.environ.setdefault("FIX_TORCH_ERROR", "0")
    # else every array that is given to a GPU is copied from it first, and both wait for each other
    os.environ.setdefault("use_cuda_host_allocator", "0")
    os.environ.setdefault("use_mpi", "0")
    if processes.under_mpirun():
        _prepare_mpi()
        os.environ.update(nccl.settings() if device != "cpu" else {})
    if config := find_python_config():
        os.environ["python_config_path"] = str(config)
    found = Cuda() if device == "cpu" else cuda.find(find_compiler())
    if device == "cuda" and not found.usable:
        raise ParameterError(
            "{device} cuda: {problem}; see `python -m gpt2_jittor.doctor`, or use {device} cpu",
            problem=found.problem,
        )
    os.environ.update(found.settings())
    device = "cuda" if found.usable else "cpu"
    os.environ["cache_name"] = cache_name(device)
    return device


def cache_name(device: str) -> str:
    """The folder of the device's core among Jittor's, or beside the one that the environment names.

    Jittor looks for its core in this folder before it looks in a folder of the toolkit's within: a core for the CPU
    must not stand where one for CUDA is looked for. A process may have been started by one for the other device.
    """
    named = os.environ.get("cache_name", CORES).removesuffix(CUDA_CORES)
    return named + CUDA_CORES if device == "cuda" else named


def _prepare_mpi() -> None:
    """Shows Jittor the MPI that started this process, and shares the machine's cores among the processes on it."""
    mpicc = os.environ.get("mpicc_path") or find_mpi("mpicc")
    if mpicc is None:
        raise UserError(f"mpirun started this, but mpicc, which Jittor compiles with, was not found: {INSTALL_MPI}")
    os.environ.update(use_mpi="1", mpicc_path=mpicc)
    own = everybodys = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # mpirun may have bound this process to a core; its parent it has not
        own, everybodys = (len(os.sched_getaffinity(number)) for number in (0, os.getppid()))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, min(own, everybodys // processes.here()))))


def import_jittor():
    """Imports Jittor in the prepared environment and returns the module."""
    device = prepare()
    kernel_cache.allow_handles()
    process.give_handlers_a_stack()
    with process.settings_kept():
        with kernel_cache.found():
            jittor_utils = _import_utils()
            lend_onednn(Path(jittor_utils.home()))
        kernel_cache.check(Path(jittor_utils.cache_path))
        jittor_utils.run_cmds = process.compile_apart
        process.keep_handlers(jittor_utils)
        compiled = core_is_compiled()
    if not compiled:
        print("Compiling Jittor's core (once on this machine, about 4 minutes) ...", file=sys.stderr, flush=True)
    # an exception in the midst of it may be lost: seconds can wait for it, a compilation cannot
    deferred = interrupts_deferred() if compiled else contextlib.nullcontext()
    with deferred, process.settings_kept():
        try:
            import jittor
        except SystemExit:  # its way of saying so, with status 0 and, when silent, without a word
            raise UserError("Jittor has rebuilt a part of itself: run the same command again") from None
        except OSError as error:
            where = jittor_utils.cache_path
            raise UserError(f"Jittor cannot write its kernels to {where}: {error}; free some space there") from error
    jittor.flags.log_sync = 1  # its logging thread must not write through Python
    process.tame_compilers(jittor)
    process.ignore_flushed_subnormals()
    jittor.flags.use_cuda = int(device == "cuda")
    return jittor


def core_is_compiled() -> bool:
    """Whether the cache holds Jittor's core for this machine and device; else the first import compiles it."""
    # The core with CUDA has a folder of its own, named after the toolkit and the GPU.
    pattern = "cu*/jittor_core*.so" if prepare() == "cuda" else "jittor_core*.so"
    return any(Path(_import_utils().cache_path).glob(pattern))


def _import_utils():
    """Imports `jittor_utils`, which knows Jittor's folders and compiles nothing, with all mends in force."""
    if "jittor_utils" not in sys.modules:
        os.environ["cc_flags"] = mends.mend(prepare(), os.environ.get("cc_flags", ""))
    import jittor_utils

    # in a notebook it would lead its C++ streams through Python's, into which its threads then write without the lock
    jittor_utils.is_in_ipynb = False
    return jittor_utils


def find_compiler() -> str | None:
    """The path of the compiler that Jittor will call, or None where it is not installed."""
    return shutil.which(_compiler())


def _compiler() -> str:
    return os.environ.get("cc_path") or ("clang++" if platform.system() == "Darwin" else "g++")


def find_mpi(program: str) -> str | None:
    """The path of mpirun or mpicc, on the PATH or beside this Python; None where it is not installed.

    A folder with both comes first: they must be of the same MPI. Pip's mpirun tells its processes where it is.
    """
    pips = Path(os.environ.get("OPAL_PREFIX", "/nowhere"), "bin")
    folders = [str(pips), *os.get_exec_path(), str(Path(sys.executable).parent)]
    whole = [folder for folder in folders if all(shutil.which(name, path=folder) for name in ("mpirun", "mpicc"))]
    return shutil.which(program, path=os.pathsep.join(whole or folders))


def find_python_config() -> Path | None:
    """The script that tells Jittor where Python's headers are: this Python's own before another's in /usr/bin."""
    name = f"python3.{sys.version_info.minor}-config"
    folders = (f"{sys.base_exec_prefix}/bin", sysconfig.get_config_var("BINDIR"), "/usr/bin", "/usr/local/bin")
    candidates = [os.environ.get("python_config_path"), *(f"{folder}/{name}" for folder in folders)]
    return next((Path(path) for path in candidates if path and Path(path).is_file()), None)


def find_onednn() -> tuple[Path, Path] | None:
    """pip's oneDNN: the folder of its headers and its `libdnnl.so.2`, or None where it is not installed."""
    try:
        headers = importlib.metadata.files("onednn-devel-cpu-gomp") or []
        libraries = importlib.metadata.files("onednn-cpu-gomp") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    header = next((f.locate().resolve() for f in headers if f.as_posix().endswith("include/dnnl.hpp")), None)
    library = next((f.locate().resolve() for f in libraries if f.name == "libdnnl.so.2"), None)
    if not (header and library and header.is_file() and library.is_file()):
        return None
    return header.parent, library


def lend_onednn(home: Path) -> None:
    """Puts pip's oneDNN where Jittor's downloader finds it present, and loads it for all kernels to call."""
    found = find_onednn()
    if found is None or platform.system() != "Linux" or platform.machine() != "x86_64":
        return
    include, library = found
    folder = home / ".cache" / "jittor" / "mkl" / "dnnl_lnx_2.2.0_cpu_gomp"
    placed = folder / "lib" / "libmkldnn.so"
    if placed.exists() and not placed.is_symlink():
        library = placed  # Jittor downloaded its own earlier: that one is linked into its operators
    else:
        _link(folder / "include", include)
        _link(placed, library)
    ctypes.CDLL(str(library), os.RTLD_GLOBAL | os.RTLD_NOW)


def _link(path: Path, target: Path) -> None:
    if path.is_symlink() and path.resolve() == target.resolve():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() and not path.is_symlink():  # an unfinished download of Jittor's
        shutil.rmtree(path, ignore_errors=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.symlink_to(target)
    temporary.replace(path)
