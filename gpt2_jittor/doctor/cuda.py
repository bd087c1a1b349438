"""The graphics card and what Jittor needs to use it, a check each. None of them fails: there is always the CPU."""

import re
from pathlib import Path

from gpt2_jittor.doctor.row import Row
from gpt2_jittor.runtime import runtime
from gpt2_jittor.runtime.cuda import Cuda, find
from gpt2_jittor.runtime.cuda import nccl as libraries
from gpt2_jittor.runtime.cuda.bounds import WHEELS
from gpt2_jittor.runtime.cuda.driver import dotted
from gpt2_jittor.runtime.cuda.driver import problem as driver_problem
from gpt2_jittor.runtime.cuda.problem import Problem

SCARCE = 4e9  # bytes of a device: an update of GPT-2 small, 8 x 128 tokens, and CUDA's own half GB
CUDNN = (Path("/usr/include"), Path("/usr/include/x86_64-linux-gnu"))


def found() -> Cuda:
    """CUDA, as a run would find it."""
    return find(runtime.find_compiler())


def driver() -> Row:
    """The driver and the newest CUDA that it supports; none is fine where there is no toolkit either."""
    cuda, name = found(), "NVIDIA driver"
    problem = driver_problem(cuda.driver)
    if not problem:
        return Row(name, "ok", f"supports CUDA {dotted(cuda.driver.release)}")
    if cuda.driver.release == (0, 0) and not cuda.toolkit.nvcc:
        return Row(name, "ok", "none: training runs on the CPU")
    return _on_the_cpu(name, problem)


def device() -> Row:
    """The devices and their memory; a warning where the first has less than SCARCE."""
    devices, name = found().driver.devices, "CUDA devices"
    if not devices:
        return Row(name, "ok", "none")
    listed = "; ".join(f"{number}: {one}" for number, one in enumerate(devices))
    if len(devices) > 1:
        listed += "; number 0 is used, CUDA_VISIBLE_DEVICES=1 makes it another"
    mend = "use --model nano or a smaller --batch-size; other programs on the device take of it, too (nvidia-smi)"
    return Row(name, "ok" if devices[0].memory >= SCARCE else "warning", listed, mend)


def toolkit() -> Row:
    """The toolkit, judged by itself: whether its g++ is too new is the next check's."""
    cuda, name = found(), "CUDA toolkit"
    wanted, nvcc = bool(cuda.driver.devices), cuda.toolkit.nvcc
    if not nvcc and not wanted:
        return Row(name, "ok", "none: not needed on the CPU")
    if cuda.toolkit.problem and not cuda.toolkit.newest_gxx:
        return _on_the_cpu(name, cuda.toolkit.problem)
    places = {place: [] for place in cuda.toolkit.elsewhere.values()}
    for part, place in cuda.toolkit.elsewhere.items():
        places[place].append(part)
    others = "".join(f"; {', '.join(names)} of {place.include.parent}" for place, names in places.items())
    return Row(name, "ok", f"{dotted(cuda.toolkit.release)} by {nvcc}{others}")


def compiler() -> Row:
    """The g++ that nvcc compiles with, and the newest one that it accepts."""
    toolkit, name = found().toolkit, "compiler for CUDA"
    if not toolkit.newest_gxx:
        return Row(name, "ok", "none chosen, for want of a toolkit")
    if toolkit.problem:
        return _on_the_cpu(name, toolkit.problem)
    bound = f"nvcc {dotted(toolkit.release)} accepts g++ up to {toolkit.newest_gxx}"
    return Row(name, "ok", f"{toolkit.compiler or runtime.find_compiler()}; {bound}")


def cudnn() -> Row:
    """cuDNN 9 aborts Jittor's import; the runtime keeps Jittor from looking for any."""
    nvcc = found().toolkit.nvcc
    folders = [Path(nvcc).resolve().parent.parent / "include", *CUDNN] if nvcc else CUDNN
    headers = (folder / "cudnn_version.h" for folder in folders)
    header = next((path for path in headers if path.is_file()), None)
    version = re.search(r"CUDNN_MAJOR\s+(\d+)", header.read_text(encoding="utf-8")) if header else None
    there = f"cuDNN {version[1]} is installed and left alone" if version else "none"
    return Row("cuDNN", "ok", f"{there}: GPT-2 has no convolution")


def nccl() -> Row:
    """NCCL, for several processes with a device each. Never fails: their sums can go over the host."""
    cuda, name = found(), "NCCL"
    if not cuda.driver.devices:
        return Row(name, "ok", "none: not needed on the CPU")
    here = libraries.find(cuda.driver)
    if here is None:
        brings = "pip install -r requirements-cuda.txt" if cuda.driver.release >= WHEELS else "apt install libnccl-dev"
        return Row(name, "ok", f"none: several processes sum over the host; for sums between devices {brings}")
    whose = f"pip's {here.wheel}" if here.wheel else "found"
    return Row(name, "ok", f"{whose} at {here.place.libraries}")


def _on_the_cpu(name: str, problem: Problem) -> Row:
    return Row(name, "warning", f"{problem.what}: training runs on the CPU", problem.mend)
