"""Made-up machines: fake programs on a PATH of their own, toolkits of empty files, a driver that says what we like."""

import importlib.metadata
import os
import sys
from pathlib import Path

from gpt2_jittor.runtime import cuda, overlay, runtime
from gpt2_jittor.runtime.cuda import nccl, parts, wheels
from gpt2_jittor.runtime.cuda.driver import Device, Driver

RTX_3060 = Device("NVIDIA GeForce RTX 3060", 12_600_000_000, (8, 6))
SETTINGS = ["nvcc_path", "cc_path", "conv_opt", "use_cutt", "use_cutlass", "use_mpi", "log_silent", "cache_name"]
OTHERS = ["python_config_path", "mpicc_path", "OPAL_PREFIX", "OMPI_COMM_WORLD_SIZE", "OMP_NUM_THREADS"]
OTHERS += ["use_nccl", "nccl_include_path", "nccl_lib_path"]
WHEELS = {  # what NVIDIA's wheels hold, as far as anybody looks
    "nvidia-cuda-nvcc": ["cu13/bin/nvcc"],
    "nvidia-cuda-crt": ["cu13/include/crt/host_config.h"],
    "nvidia-cuda-runtime": [
        *("cu13/include/cuda_runtime_api.h", "cu13/include/cuda_runtime.h", "cu13/lib/libcudart.so.13"),
    ],
    "nvidia-cuda-cccl": ["cu13/include/cccl/cub/cub.cuh"],
    "nvidia-cublas": ["cu13/include/cublas_v2.h", "cu13/lib/libcublas.so.13", "cu13/lib/libcublasLt.so.13"],
    "nvidia-cuda-nvrtc": ["cu13/lib/libnvrtc.so.13", "cu13/lib/libnvrtc-builtins.so.13.0"],
    "nvidia-curand": ["cu13/include/curand.h", "cu13/lib/libcurand.so.10"],
    "nvidia-nvvm": ["cu13/nvvm/bin/cicc"],
    "nvidia-nccl-cu13": ["nccl/include/nccl.h", "nccl/lib/libnccl.so.2"],
}
HEADERS = [path.partition("include/")[2] for paths in WHEELS.values() for path in paths if "cu13/include" in path]


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
        monkeypatch.setattr(parts, "distribution", self._distribution)
        monkeypatch.setattr(nccl, "SYSTEM", ())
        monkeypatch.setattr(overlay, "cache", lambda: folder / "cache")
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

    def has_toolkit(self, release: str, folder: str = "cuda", without: str | list = "", on_path: bool = True) -> str:
        """A toolkit under /usr/local, or what stands for it here, without some files; returns its nvcc."""
        home = self.folder / "local" / folder
        nvcc = program(home / "bin" / "nvcc", f"Cuda compilation tools, release {release}, V{release}.99")
        (home / "lib64").mkdir()
        for name in [*(f"include/{name}" for name in HEADERS), *(f"lib64/{name}" for name in parts.LIBRARIES)]:
            if Path(name).name not in without:
                (home / name).parent.mkdir(parents=True, exist_ok=True)
                (home / name).touch()
        if on_path:
            os.environ["PATH"] += f":{nvcc.parent}"
        return str(nvcc)

    def has_wheels(self, folder: str = "site", without: str | list = "") -> str:
        """What `pip install -r requirements-cuda.txt` brings, without some wheels; returns the nvcc."""
        site = self.folder / folder
        for pin in wheels.pinned():
            if pin.name in without:
                continue
            for name in WHEELS[pin.name]:
                (site / "nvidia" / name).parent.mkdir(parents=True, exist_ok=True)
                (site / "nvidia" / name).touch()
            info = site / f"{pin.name.replace('-', '_')}-{pin.version}.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {pin.name}\nVersion: {pin.version}\n")
            (info / "RECORD").write_text("".join(f"nvidia/{name},,\n" for name in WHEELS[pin.name]))
        return str(program(site / "nvidia/cu13/bin/nvcc", "Cuda compilation tools, release 13.0, V13.0.88"))

    def _distribution(self, name: str) -> importlib.metadata.Distribution:
        sites = [str(path) for path in self.folder.glob("site*")]
        if found := next(iter(importlib.metadata.distributions(name=name, path=sites)), None):
            return found
        raise importlib.metadata.PackageNotFoundError(name)


def a_card(major: int, minor: int) -> Device:
    return Device("NVIDIA Something", 8_000_000_000, (major, minor))


def found(machine: Machine) -> cuda.Cuda:
    return cuda.find(str(machine.tools / "g++"))
