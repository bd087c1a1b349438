"""CUDA 13 in parts: where each is taken from, and the folder of links that is made for Jittor around them."""

import os
import subprocess
from pathlib import Path

import pytest
from machines import found, program

from gpt2_jittor.runtime import cuda
from gpt2_jittor.runtime.cuda import home, parts

CUBLAS = ["libcublas.so", "cublas_v2.h"]


def folder_of(here: cuda.Cuda) -> Path:
    """The toolkit that Jittor sees: the folder above the `bin` of its nvcc."""
    return Path(here.settings()["nvcc_path"]).parents[1]


@pytest.fixture
def new_driver(machine):
    machine.has_driver((13, 0))
    return machine


def test_a_toolkit_of_the_system_comes_before_pips_and_pips_before_one_that_cannot_be_used(new_driver):
    pips = new_driver.has_wheels()
    assert found(new_driver).toolkit.nvcc == pips
    old = new_driver.has_toolkit("9.2", "cuda-9.2")
    assert found(new_driver).toolkit.nvcc == pips
    whole = new_driver.has_toolkit("12.6", "cuda-12.6", on_path=False)
    assert found(new_driver).toolkit.nvcc == whole
    os.environ["nvcc_path"] = old
    assert "not 9.2" in str(found(new_driver).problem)


def test_what_a_system_lacks_of_cuda_13_is_taken_from_the_wheels(new_driver):
    nvcc = new_driver.has_toolkit("13.0", without=[*CUBLAS, "curand.h"])
    assert "cublas_v2.h is missing" in str(found(new_driver).problem)
    wheels = Path(new_driver.has_wheels()).parents[1]
    here = found(new_driver)
    assert here.usable and here.toolkit.nvcc == nvcc and list(here.toolkit.elsewhere) == ["cuBLAS", "cuRAND"]
    folder = folder_of(here)
    own = Path(nvcc).parents[1]
    targets = {
        "include/nvidia_cuda_runtime.h": own / "include/cuda_runtime.h",
        "include/crt": own / "include/crt",
        "include/cublas_v2.h": wheels / "include/cublas_v2.h",
        "include/curand.h": wheels / "include/curand.h",
        "lib64/libcudart.so": own / "lib64/libcudart.so",
        "lib64/libcublas.so": wheels / "lib/libcublas.so.13",
        "lib64/libcublas.so.13": wheels / "lib/libcublas.so.13",
        "lib64/libcublasLt.so.13": wheels / "lib/libcublasLt.so.13",
        "lib64/libnvrtc-builtins.so.13.0": wheels / "lib/libnvrtc-builtins.so.13.0",  # cuBLAS looks beside itself
    }
    assert {name: (folder / name).readlink() for name in targets} == targets


def test_an_older_toolkit_takes_nothing_from_the_wheels(machine):
    machine.has_driver((12, 9))
    machine.has_toolkit("12.6", without="libcublas.so")
    machine.has_wheels()
    assert "libcublas.so is missing" in str(found(machine).problem)


@pytest.mark.parametrize("wheel", ["nvidia-cuda-crt", "nvidia-cuda-runtime", "nvidia-cublas", "nvidia-curand"])
def test_where_a_wheel_is_missing_there_is_no_toolkit(new_driver, wheel):
    new_driver.has_wheels(without=[wheel])
    assert str(found(new_driver).problem).endswith("make setup (or pip install -r requirements-cuda.txt)")


def test_jittors_nvcc_calls_nvidias_with_what_cuda_13_needs_and_is_no_link(new_driver):
    nvcc = Path(new_driver.has_wheels("site with a 'quote"))
    program(nvcc, "")
    nvcc.write_text('#!/bin/sh\nfor argument; do echo "$argument"; done\n')
    new_driver.monkeypatch.setattr(cuda.toolkits, "_release", lambda _: (13, 0))
    folder = folder_of(found(new_driver))
    jittors = folder / "bin" / "nvcc"
    said = subprocess.run([jittors, "-std=c++14", "a b.cu"], capture_output=True, text=True, check=True).stdout
    given, added = said.splitlines()[:2], said.splitlines()[2:]
    assert given == ["-std=c++17", "a b.cu"] and not jittors.is_symlink()
    assert added == [f"-I{folder}/include", "-isystem", f"{folder}/include/cccl", f"-L{folder}/lib64"]


def test_a_wheel_that_moved_or_went_leaves_no_folder_in_use(new_driver):
    site = Path(new_driver.has_wheels()).parents[3]
    first = folder_of(found(new_driver))
    assert folder_of(found(new_driver)) == first  # made once
    site.rename(site.with_name("site of another name"))
    second = folder_of(found(new_driver))
    assert second != first and all(path.exists() for path in second.rglob("*"))
    (site.with_name("site of another name") / "nvidia/cu13/lib/libcublas.so.13").unlink()
    assert not found(new_driver).usable
    (site.with_name("site of another name") / "nvidia/cu13/bin/nvcc").unlink()
    assert "nvcc was not found" in str(found(new_driver).problem)


def test_another_set_of_files_is_another_folder(new_driver):
    wheels = Path(new_driver.has_wheels()).parents[1]
    first = folder_of(found(new_driver))
    (wheels / "include" / "cublas_api.h").touch()
    second = folder_of(found(new_driver))
    assert first != second and (second / "include" / "cublas_api.h").exists()


def test_the_toolkits_own_npp_is_kept_and_ours_is_there_where_it_has_none(new_driver):
    include = Path(new_driver.has_toolkit("13.0")).parents[1] / "include"
    assert "NPP_MAX_32S" in (folder_of(found(new_driver)) / "include/npp.h").read_text()
    (include / "npp.h").write_text("// NVIDIA's")
    assert (folder_of(found(new_driver)) / "include/npp.h").read_text() == "// NVIDIA's"


def test_of_debians_own_cuda_13_the_headers_that_are_everybodys_are_not_linked(new_driver, tmp_path):
    nvcc = new_driver.has_toolkit("13.0")
    include = Path(nvcc).parents[1] / "include"
    (include / "stdlib.h").touch()
    new_driver.monkeypatch.setattr(parts, "DISTRIBUTION", nvcc)
    new_driver.monkeypatch.setattr(parts, "DISTRIBUTION_LIBRARIES", Path(nvcc).parents[1] / "lib64")
    new_driver.monkeypatch.setattr(parts, "DISTRIBUTION_HEADERS", include)
    folder = folder_of(found(new_driver))
    names = {path.name for path in (folder / "include").iterdir()}
    assert names == {"cuda_runtime.h", "nvidia_cuda_runtime.h", "npp.h", "cub"}
    assert (folder / "lib64/libcublas.so").exists()
    (include / "cublas_v2.h").unlink()  # of pip's then what Debian's lacks, and no more
    new_driver.has_wheels()
    folder = folder_of(found(new_driver))
    assert {path.name for path in (folder / "include").iterdir()} == names | {"cublas_v2.h"}


CUDA_PROGRAM = """#include <npp.h>
#include <cub/cub.cuh>
#include <cublas_v2.h>
#include <curand.h>
#include <cuda_bf16.h>
__global__ void kernel(int* x) { x[threadIdx.x] = NPP_MAX_32S; }
int members(cudaDeviceProp& p) { return p.clockRate + p.computeMode; }
int main() {
    kernel<<<1, 1>>>(nullptr);
    cub::CountingInputIterator<int> from(0);
    cublasHandle_t handle;
    return *from + cublasCreate(&handle) != CUBLAS_STATUS_SUCCESS;  // for want of a device
}
"""


@pytest.mark.skipif(not parts.wheels_nvcc(), reason="pip install -r requirements-cuda.txt")
def test_with_the_real_wheels_what_jittor_reads_compiles_links_and_finds_its_libraries(tmp_path, monkeypatch):
    monkeypatch.setattr(home.overlay, "cache", lambda: tmp_path / "cache")
    nvcc = home.make(parts.wheels_nvcc(), parts.elsewhere(parts.wheels_nvcc())[0])
    (tmp_path / "x.cu").write_text(CUDA_PROGRAM)
    flags = ["-std=c++14", "--cudart=shared", "-arch=sm_90", "-lcublas", "-lcurand"]
    libraries = Path(nvcc).parents[1] / "lib64"
    linked = [f"-L{libraries}", "-Xlinker", f"-rpath={libraries}", "-o", str(tmp_path / "x")]
    subprocess.run([nvcc, *flags, "-w", str(tmp_path / "x.cu"), *linked], check=True)
    environment = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    loaded = subprocess.run(["ldd", tmp_path / "x"], env=environment, capture_output=True, text=True, check=True).stdout
    assert f"libcublas.so.13 => {libraries}" in loaded and f"libcublasLt.so.13 => {libraries}" in loaded
    assert f"libcudart.so.13 => {libraries}" in loaded and "not found" not in loaded
