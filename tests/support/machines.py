"""Made-up machines: fake programs on a PATH of their own, toolkits of empty files, a driver that says what we like."""

import os
import sys
from pathlib import Path

from gpt2_jittor.runtime import cuda, runtime
from gpt2_jittor.runtime.cuda.driver import Device, Driver

RTX_3060 = Device("NVIDIA GeForce RTX 3060", 12_600_000_000, (8, 6))
SETTINGS = ["nvcc_path", "cc_path", "conv_opt", "use_cutt", "use_cutlass", "use_mpi", "log_silent", "cache_name"]
OTHERS = ["python_config_path", "mpicc_path", "OPAL_PREFIX", "OMPI_COMM_WORLD_SIZE", "OMP_NUM_THREADS"]


def program(path: Path, says: str, status: int = 0) -> Path:
    """A script that says one thing, whatever it is asked."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}'\nexit {status}\n")
    path.chmod(0o755)
    return path


class Machine:
    """A machine with g++ 12.2 and nothing else, until it is given more. `prepare` may be called anew on it."""

    def __init__(self, folder: Path, monkeypatch):
        self.folder, self.tools, self.monkeypatch = folder, folder / "tools", monkeypatch
        os.environ["PATH"] = str(self.tools)
        for name in (*SETTINGS, *OTHERS, "CUDA_VISIBLE_DEVICES"):
            os.environ.pop(name, None)
        monkeypatch.setattr(runtime, "_chosen", None)
        monkeypatch.setattr(sys, "executable", "/nowhere/python")
        monkeypatch.setattr(cuda.toolkits, "USUAL", folder / "local")
        monkeypatch.setattr(cuda.drivers, "KERNEL", folder / "version")
        monkeypatch.setattr(cuda.drivers, "CONTAINER", ())
        self.has_gxx("12.2.0")
        self.has_driver(None)

    def has(self, name: str, says: str = "") -> str:
        """Puts a program on the PATH."""
        return str(program(self.tools / name, says))

    def has_gxx(self, version: str, name: str = "g++") -> str:
        return self.has(name, version)

    def has_driver(self, release: tuple[int, int] | None, *devices: Device, refusal: str = "") -> None:
        """A driver for CUDA up to `release`, None for no driver, with an RTX 3060 where nothing else is said."""
        told = Driver() if release is None else Driver(release, () if refusal else devices or (RTX_3060,), refusal)
        self.monkeypatch.setattr(cuda.drivers, "ask", lambda: told)

    def has_toolkit(self, release: str, folder: str = "cuda", without: str = "", on_path: bool = True) -> str:
        """A toolkit under /usr/local, or what stands for it here; returns its nvcc."""
        home = self.folder / "local" / folder
        nvcc = program(home / "bin" / "nvcc", f"Cuda compilation tools, release {release}, V{release}.99")
        (home / "lib64").mkdir()
        for name in {"libcudart.so", "libcublas.so", "libcurand.so"} - {without}:
            (home / "lib64" / name).touch()
        if on_path:
            os.environ["PATH"] += f":{nvcc.parent}"
        return str(nvcc)
