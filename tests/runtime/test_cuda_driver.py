"""The driver is asked through its own library: here one that g++ makes, which says what the environment tells it to."""

import subprocess

import pytest

from gpt2_jittor.runtime.cuda import driver
from gpt2_jittor.runtime.cuda.driver import Device, Driver

LIBRARY = r"""
#include <cstdio>
#include <cstdlib>
#include <cstring>
static int told(const char* name, int otherwise) { auto s = getenv(name); return s ? atoi(s) : otherwise; }
extern "C" {
int cuInit(unsigned flags) { return flags ? 1 : told("CU_STATUS", 0); }
int cuDriverGetVersion(int* version) { *version = told("CU_VERSION", 12040); return 0; }
int cuDeviceGetCount(int* count) { *count = told("CU_DEVICES", 1); return 0; }
int cuDeviceGet(int* device, int ordinal) { *device = 40 + ordinal; return 0; }
int cuDeviceGetName(char* name, int length, int device) { snprintf(name, length, "NVIDIA No. %d", device); return 0; }
int cuDeviceTotalMem_v2(size_t* bytes, int device) { *bytes = (size_t)device << 30; return 0; }
int cuDeviceGetAttribute(int* value, int attribute, int device) {
    *value = attribute == 75 ? device / 10 : attribute == 76 ? device % 10 : -1;
    return 0;
}
int cuGetErrorString(int status, const char** words) { *words = status == 803 ? "driver mismatch" : 0; return 0; }
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("driver") / "libcuda.so.1"
    compiler = ["g++", "-x", "c++", "-shared", "-fPIC", "-o", path, "-"]
    subprocess.run(compiler, input=LIBRARY, text=True, check=True)
    return str(path)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({}, Driver((12, 4), (Device("NVIDIA No. 40", 40 << 30, (4, 0)),))),
        (
            {"CU_VERSION": "11080", "CU_DEVICES": "2"},
            Driver((11, 8), (Device("NVIDIA No. 40", 40 << 30, (4, 0)), Device("NVIDIA No. 41", 41 << 30, (4, 1)))),
        ),
        ({"CU_STATUS": "803"}, Driver((12, 4), refusal="driver mismatch")),
        ({"CU_DEVICES": "0"}, Driver((12, 4), refusal="no device is visible")),
    ],
)
def test_the_driver_is_asked_itself(monkeypatch, library, told, expected):
    monkeypatch.setattr(driver, "LIBRARY", library)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert driver.ask() == expected


@pytest.mark.parametrize("library", ["libcuda.so.of.nobody", "libm.so.6"])  # none, and one that has no such functions
def test_a_machine_without_the_drivers_library_has_no_driver(monkeypatch, library):
    monkeypatch.setattr(driver, "LIBRARY", library)
    assert driver.ask() == Driver()


def test_a_device_is_told_by_name_memory_and_capability():
    assert str(Device("NVIDIA A100", 42_300_000_000, (8, 0))) == "NVIDIA A100, 42.3 GB, compute capability 8.0"
