"""Jittor's environment on made-up machines: fake toolkits on a PATH of their own, a driver that says what we like.

Only the last tests import the real Jittor, in a process of their own.
"""

import ctypes
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest

from common.errors import UserError
from gpt2_jittor import runtime

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = ["nvcc_path", "cc_path", "conv_opt", "use_cutt", "use_cutlass", "use_mpi", "log_silent", "cache_name"]
LINUX_X86_64 = platform.system() == "Linux" and platform.machine() == "x86_64"


class Machine:
    """A machine with a compiler and nothing else, until it is given more."""

    def __init__(self, folder: Path, monkeypatch):
        self.folder, self.monkeypatch = folder, monkeypatch
        self.compiler = self.program("tools/g++", "g++ 12.2.0")
        self.path(self.compiler.parent)
        self.has_driver(devices=0, version=(0, 0))
        monkeypatch.setattr(runtime, "USUAL_NVCC", str(folder / "nowhere" / "nvcc"))

    def program(self, name: str, says: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\necho '{says}'\n")
        path.chmod(0o755)
        return path

    def path(self, *folders: Path):
        os.environ["PATH"] = os.pathsep.join(map(str, folders))

    def has_driver(self, devices: int, version: tuple[int, int]):
        self.monkeypatch.setattr(runtime, "_driver", lambda: (devices, version))

    def has_toolkit(self, release: str, whole: bool = True) -> str:
        nvcc = self.program("cuda/bin/nvcc", f"Cuda compilation tools, release {release}, V{release}.99")
        if whole:
            (self.folder / "cuda" / "lib64").mkdir()
            (self.folder / "cuda" / "lib64" / "libcudart.so").touch()
        self.path(self.compiler.parent, nvcc.parent)
        return str(nvcc)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "_chosen", None)
    with mock.patch.dict(os.environ):  # gives everything back, what `prepare` sets included
        for name in (*SETTINGS, "python_config_path", "OMPI_COMM_WORLD_SIZE"):
            os.environ.pop(name, None)
        yield Machine(tmp_path, monkeypatch)


def test_a_machine_without_a_gpu_runs_on_the_cpu_quietly(machine):
    assert runtime.prepare() == "cpu"
    assert {name: os.environ.get(name) for name in ("nvcc_path", "log_silent", "use_mpi", "cache_name")} == {
        "nvcc_path": "",
        "log_silent": "1",
        "use_mpi": "0",
        "cache_name": "default",
    }


def test_nvcc_without_a_driver_is_kept_from_jittor(machine):
    machine.has_toolkit("12.4")
    assert runtime.prepare() == "cpu"
    assert os.environ["nvcc_path"] == ""


@pytest.mark.parametrize("release", ["10.2", "11.8", "12.0", "12.9"])
def test_a_whole_cuda_is_used_without_cudnn_and_without_downloads(machine, release):
    machine.has_driver(devices=1, version=(12, 4))
    nvcc = machine.has_toolkit(release)
    assert runtime.prepare() == "cuda"
    expected = {"nvcc_path": nvcc, "conv_opt": "1", "use_cutt": "0", "use_cutlass": "0"}
    assert {name: os.environ[name] for name in expected} == expected


def test_cuda_that_is_not_asked_for_is_not_used(machine):
    machine.has_driver(devices=1, version=(12, 4))
    machine.has_toolkit("12.4")
    assert runtime.prepare("cpu") == "cpu"
    assert os.environ["nvcc_path"] == "" and "conv_opt" not in os.environ


def test_nvcc_path_is_preferred_to_the_path(machine):
    machine.has_driver(devices=1, version=(12, 4))
    chosen = machine.has_toolkit("12.1")
    other = machine.program("new/bin/nvcc", "release 13.0, V13.0.88")
    machine.path(machine.compiler.parent, other.parent)
    os.environ["nvcc_path"] = chosen
    assert runtime.find_cuda().nvcc == chosen and runtime.find_cuda().usable


def test_a_toolkit_in_the_usual_place_needs_no_path(machine):
    machine.has_driver(devices=1, version=(12, 4))
    nvcc = machine.has_toolkit("12.4")
    machine.path(machine.compiler.parent)
    machine.monkeypatch.setattr(runtime, "USUAL_NVCC", nvcc)
    assert runtime.find_cuda().nvcc == nvcc


def a_driver_without_a_toolkit(machine):
    machine.has_driver(devices=1, version=(12, 4))


def a_driver_without_a_device(machine):
    machine.has_driver(devices=0, version=(12, 4))
    machine.has_toolkit("12.4")


def a_toolkit_that_is_too_new(machine):
    machine.has_driver(devices=1, version=(13, 0))
    machine.has_toolkit("13.0")


def a_toolkit_that_is_too_old(machine):
    machine.has_driver(devices=1, version=(12, 4))
    machine.has_toolkit("9.2")


def a_driver_older_than_the_toolkit(machine):
    machine.has_driver(devices=1, version=(11, 8))
    machine.has_toolkit("12.4")


def a_toolkit_without_libraries(machine):
    machine.has_driver(devices=1, version=(12, 4))
    machine.has_toolkit("12.4", whole=False)


def an_nvcc_that_says_nothing(machine):
    machine.has_driver(devices=1, version=(12, 4))
    machine.program("cuda/bin/nvcc", "what?")
    os.environ["nvcc_path"] = str(machine.folder / "cuda/bin/nvcc")


def an_nvcc_path_to_nothing(machine):
    machine.has_driver(devices=1, version=(12, 4))
    os.environ["nvcc_path"] = str(machine.folder / "no" / "nvcc")


HALF_THERE = {
    a_driver_without_a_toolkit: "install the CUDA toolkit, 11 or 12",
    a_driver_without_a_device: "reports no device",
    a_toolkit_that_is_too_new: "compiles against CUDA 10.2 to 12, not 13.0",
    a_toolkit_that_is_too_old: "compiles against CUDA 10.2 to 12, not 9.2",
    a_driver_older_than_the_toolkit: "supports CUDA 11.8, older than the toolkit's 12.4",
    a_toolkit_without_libraries: "libcudart.so: point nvcc_path at",
    an_nvcc_that_says_nothing: "does not tell its version",
    an_nvcc_path_to_nothing: "does not tell its version",
}


@pytest.mark.parametrize("half_there", HALF_THERE, ids=lambda case: case.__name__)
def test_cuda_that_is_half_there_is_left_alone(machine, half_there):
    half_there(machine)
    assert runtime.prepare() == "cpu"
    assert os.environ["nvcc_path"] == "" and "conv_opt" not in os.environ


@pytest.mark.parametrize("half_there", HALF_THERE, ids=lambda case: case.__name__)
def test_asking_for_cuda_that_is_half_there_says_what_is_missing(machine, half_there):
    half_there(machine)
    with pytest.raises(UserError) as refused:
        runtime.prepare("cuda")
    assert HALF_THERE[half_there] in str(refused.value)
    assert "--device cpu" in str(refused.value)


def test_asking_for_cuda_without_a_gpu_is_the_users_error(machine):
    with pytest.raises(UserError, match="--device cuda: no NVIDIA driver was found"):
        runtime.prepare("cuda")


def test_an_unknown_device_is_the_users_error(machine):
    with pytest.raises(UserError, match="--device tpu is unknown; choose one of auto, cpu, cuda"):
        runtime.prepare("tpu")


def test_a_process_keeps_the_device_it_started_with(machine):
    assert runtime.prepare("cpu") == "cpu"
    assert runtime.prepare() == "cpu"
    with pytest.raises(UserError, match="already runs Jittor on cpu"):
        runtime.prepare("cuda")


def test_a_refused_device_leaves_the_choice_open(machine):
    with pytest.raises(UserError):
        runtime.prepare("cuda")
    assert runtime.prepare("cpu") == "cpu"


def test_what_the_user_set_is_kept(machine):
    os.environ.update(log_silent="0", cache_name="mine", use_mpi="1")
    runtime.prepare("cpu")
    assert (os.environ["log_silent"], os.environ["cache_name"], os.environ["use_mpi"]) == ("0", "mine", "1")


@pytest.mark.parametrize("cc_path", [None, "/nowhere/g++"])
def test_a_machine_without_a_compiler_gets_one_line(tmp_path, cc_path):
    program = "from common.command import run_command; from gpt2_jittor import runtime; run_command(runtime.prepare)"
    environment = {**os.environ, "PATH": str(tmp_path)} | ({"cc_path": cc_path} if cc_path else {})
    if not cc_path:
        environment.pop("cc_path", None)
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1 and "apt install g++" in ended.stderr


def fake_libcuda(version: int, initialised: int = 0, devices: int = 1):
    """What ctypes loads, with the driver's three functions; `initialised` is cuInit's status, 0 for success."""

    def put(value):
        def function(pointer):
            pointer._obj.value = value
            return 0

        return function

    functions = {"cuDriverGetVersion": put(version), "cuDeviceGetCount": put(devices)}
    return lambda name: SimpleNamespace(**functions, cuInit=lambda flags: initialised)


@pytest.mark.parametrize(
    ("libcuda", "expected"),
    [
        (fake_libcuda(version=12040, devices=2), (2, (12, 4))),
        (fake_libcuda(version=10020), (1, (10, 2))),
        (fake_libcuda(version=12040, initialised=100), (0, (12, 4))),  # CUDA_ERROR_NO_DEVICE
        (mock.Mock(side_effect=OSError("libcuda.so.1: cannot open shared object file")), (0, (0, 0))),
    ],
)
def test_the_driver_is_asked_itself(monkeypatch, libcuda, expected):
    monkeypatch.setattr(ctypes, "CDLL", libcuda)
    assert runtime._driver() == expected


def test_this_pythons_own_config_is_preferred_to_another_pythons(machine):
    name = f"python3.{sys.version_info.minor}-config"
    own = machine.program(f"own/bin/{name}", "")
    machine.monkeypatch.setattr(sys, "base_exec_prefix", str(machine.folder / "own"))
    runtime.prepare("cpu")
    assert os.environ["python_config_path"] == str(own)


def test_a_config_that_the_user_points_at_is_kept_if_it_exists(machine):
    mine = machine.program("mine-config", "")
    os.environ["python_config_path"] = str(mine)
    assert runtime.find_python_config() == mine
    mine.unlink()
    assert runtime.find_python_config() != mine


@pytest.mark.parametrize(("device", "folder"), [("cpu", "."), ("cuda", "cu12.4.131_sm_80")])
def test_each_device_has_a_core_of_its_own(tmp_path, monkeypatch, device, folder):
    monkeypatch.setattr(runtime, "_chosen", device)
    monkeypatch.setitem(sys.modules, "jittor_utils", SimpleNamespace(cache_path=str(tmp_path)))
    other = tmp_path / ("cu11.8.89_sm_80" if device == "cpu" else ".")
    other.mkdir(exist_ok=True)
    (other / "jittor_core.cpython-311.so").touch()
    assert not runtime.core_is_compiled()
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / folder / "jittor_core.cpython-311.so").touch()
    assert runtime.core_is_compiled()


IMPORTING = """
import ssl, sys
limit = sys.getrecursionlimit()
from gpt2_jittor import runtime
runtime.prepare("cpu")
from gpt2_jittor.backend import jt
assert ssl._create_default_https_context().verify_mode == ssl.CERT_REQUIRED
assert sys.getrecursionlimit() == limit
assert jt.flags.use_cuda == 0
assert "torch" not in sys.modules  # two seconds and 180 MB that no run needs
print(jt.__version__)
"""


def test_importing_jittor_leaves_certificates_recursion_and_pytorch_alone():
    ended = subprocess.run(
        [sys.executable, "-c", IMPORTING], cwd=ROOT, capture_output=True, text=True, check=False, timeout=600
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == [importlib.metadata.version("jittor")]  # and nothing of Jittor's chatter
