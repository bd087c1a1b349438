"""The parts of a CUDA toolkit, and where each is: beside `nvcc`, or in NVIDIA's wheels of this environment.

A toolkit before 13 must be whole. Of CUDA 13, whose wheels are pinned in requirements-cuda.txt, a toolkit of the system
may lack what the wheels have: what GPT-2 needs beside the compiler and its runtime.
"""

import importlib.metadata
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gpt2_jittor.runtime.cuda.bounds import Release

DISTRIBUTION = "/usr/bin/nvcc"  # Debian's and Ubuntu's own package; Jittor, too, knows this case
DISTRIBUTION_HEADERS, DISTRIBUTION_LIBRARIES = Path("/usr/include"), Path("/usr/lib/x86_64-linux-gnu")
LIBRARIES = ("libcudart.so", "libcublas.so", "libcurand.so")
SPLIT = (13, 0)  # from here on parts may be in different places

distribution = importlib.metadata.distribution  # of this environment; tests put another in its place


@dataclass(frozen=True)
class Place:
    """A folder of headers and one of libraries, which belong together."""

    include: Path
    libraries: Path

    def library(self, name: str) -> Path | None:
        """The file of `libcublas.so`, which in wheels has its version in its name, too."""
        return next(iter(sorted(self.libraries.glob(f"{name}*"))), None)


@dataclass(frozen=True)
class Part:
    """What Jittor needs of a toolkit: any one of `headers`, and the `library` where it has one; and its `wheel`."""

    name: str
    wheel: str
    headers: tuple[str, ...]
    library: str = ""

    def lacks(self, place: Place) -> Path | None:
        """The file of this part that is not there, None where all of it is."""
        if not any((place.include / header).is_file() for header in self.headers):
            return place.include / self.headers[0]
        if self.library and not place.library(self.library):
            return place.libraries / self.library
        return None


COMPILER = (
    Part("the compiler", "nvidia-cuda-nvcc", ("crt/host_config.h",)),  # in nvidia-cuda-crt, which is beside it
    Part("the runtime", "nvidia-cuda-runtime", ("cuda_runtime_api.h",), "libcudart.so"),
)
BESIDE = (
    Part("cccl", "nvidia-cuda-cccl", ("cccl/cub/cub.cuh", "cub/cub.cuh")),
    Part("cuBLAS", "nvidia-cublas", ("cublas_v2.h",), "libcublas.so"),
    Part("cuRAND", "nvidia-curand", ("curand.h",), "libcurand.so"),
)


def home(nvcc: str) -> Place:
    """Where the headers and libraries beside this `nvcc` are."""
    if nvcc == DISTRIBUTION:
        return Place(DISTRIBUTION_HEADERS, DISTRIBUTION_LIBRARIES)
    folder = Path(nvcc).resolve().parent.parent
    wheels = (folder / "lib").is_dir() and not (folder / "lib64").exists()
    return Place(folder / "include", folder / ("lib" if wheels else "lib64"))


def elsewhere(nvcc: str) -> tuple[dict[str, Place], Path | None]:
    """Of a CUDA 13: the places of the parts that are not beside `nvcc`, by their names; and a file that is nowhere."""
    own, places = home(nvcc), {}
    for part in COMPILER:
        if missing := part.lacks(own):
            return {}, missing
    for part in BESIDE:
        if missing := part.lacks(own):
            place = of_wheel(part)
            if place is None:
                return {}, missing
            places[part.name] = place
    return places, None


def missing(nvcc: str, release: Release) -> Path | None:
    """A file that Jittor needs and that is nowhere."""
    if release >= SPLIT:
        return elsewhere(nvcc)[1]
    folder = home(nvcc).libraries
    return next((folder / name for name in LIBRARIES if not (folder / name).exists()), None)


def wheels_nvcc() -> str | None:
    """The `nvcc` that pip installed, None where it has not."""
    found = file_of("nvidia-cuda-nvcc", "bin/nvcc")
    return str(found) if found else None


def of_wheel(part: Part) -> Place | None:
    """The place of a part that pip installed, None where it is not whole."""
    for header in part.headers:
        if found := file_of(part.wheel, f"include/{header}"):
            include = found.parents[header.count("/")]
            place = Place(include, include.parent / "lib")
            return None if part.lacks(place) else place
    return None


def file_of(wheel: str, end: str) -> Path | None:
    """The installed file of a wheel whose path ends so."""
    with suppress(importlib.metadata.PackageNotFoundError):
        for file in distribution(wheel).files or ():
            if file.as_posix().endswith(f"/{end}") and (path := Path(file.locate())).is_file():
                return path.resolve()
    return None


def version_of(wheel: str) -> str | None:
    """The version of a wheel that pip installed."""
    with suppress(importlib.metadata.PackageNotFoundError):
        return distribution(wheel).version
    return None
