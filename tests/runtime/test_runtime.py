"""Jittor's environment, as `prepare` settles it on made-up machines; what it finds of CUDA is in test_cuda.py.

Only the last tests import the real Jittor, in a process of their own.
"""

import importlib.metadata
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from machines import program
from places import ROOT

from common.errors import UserError
from gpt2_jittor.runtime import runtime


def test_a_machine_without_a_gpu_runs_on_the_cpu_quietly(machine):
    assert runtime.prepare() == "cpu"
    assert {name: os.environ.get(name) for name in ("nvcc_path", "log_silent", "use_mpi", "cache_name")} == {
        "nvcc_path": "",
        "log_silent": "1",
        "use_mpi": "0",
        "cache_name": "mended",
    }


def test_nvcc_without_a_driver_is_kept_from_jittor(machine):
    machine.has_toolkit("12.4")
    assert runtime.prepare() == "cpu"
    assert os.environ["nvcc_path"] == ""


def test_a_whole_cuda_is_used_with_the_gxx_that_goes_with_it(machine):
    machine.has_driver((12, 4))
    nvcc, compiler = machine.has_toolkit("11.8"), machine.has_gxx("11.4.0", "g++-11")
    assert runtime.prepare() == "cuda"
    expected = {"nvcc_path": nvcc, "cc_path": compiler, "conv_opt": "1", "use_cutt": "0", "use_cutlass": "0"}
    assert {name: os.environ[name] for name in expected} == expected


def test_cuda_that_is_not_asked_for_is_not_used(machine):
    machine.has_driver((12, 4))
    machine.has_toolkit("12.4")
    assert runtime.prepare("cpu") == "cpu"
    assert os.environ["nvcc_path"] == "" and "conv_opt" not in os.environ


def test_cuda_that_is_half_there_is_left_alone(machine):
    machine.has_driver((12, 4))
    machine.has_toolkit("13.0")
    assert runtime.prepare() == "cpu"
    assert os.environ["nvcc_path"] == "" and "conv_opt" not in os.environ


def test_asking_for_cuda_that_is_half_there_says_what_is_missing(machine):
    machine.has_driver((12, 4))
    with pytest.raises(UserError, match="^device cuda: nvcc was not found: .*; see .*doctor.*, or use device cpu$"):
        runtime.prepare("cuda")


def test_asking_for_cuda_without_a_gpu_is_the_users_error(machine):
    with pytest.raises(UserError, match="device cuda: no NVIDIA driver was found"):
        runtime.prepare("cuda")


def test_an_unknown_device_is_the_users_error(machine):
    with pytest.raises(UserError, match="device tpu is unknown; choose one of auto, cpu, cuda"):
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
    program = (
        "from common.command import run_command; from gpt2_jittor.runtime import runtime; run_command(runtime.prepare)"
    )
    environment = {**os.environ, "PATH": str(tmp_path)} | ({"cc_path": cc_path} if cc_path else {})
    if not cc_path:
        environment.pop("cc_path", None)
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1 and "apt install g++" in ended.stderr


def test_this_pythons_own_config_is_preferred_to_another_pythons(machine):
    name = f"python3.{sys.version_info.minor}-config"
    own = program(machine.folder / "own" / "bin" / name, "")
    machine.monkeypatch.setattr(sys, "base_exec_prefix", str(machine.folder / "own"))
    runtime.prepare("cpu")
    assert os.environ["python_config_path"] == str(own)


def test_a_config_that_the_user_points_at_is_kept_if_it_exists(machine):
    mine = program(machine.folder / "mine-config", "")
    os.environ["python_config_path"] = str(mine)
    assert runtime.find_python_config() == mine
    mine.unlink()
    assert runtime.find_python_config() != mine


@pytest.mark.parametrize(
    ("named", "for_cpu", "for_cuda"),
    [
        (None, "mended", "mended-cuda"),
        ("mine", "mine", "mine-cuda"),
        ("default-cuda", "default", "default-cuda"),  # of a process that one on the other device has started
    ],
)
def test_cores_for_the_cpu_and_for_cuda_never_share_a_folder(machine, named, for_cpu, for_cuda):
    machine.has_driver((12, 4))
    machine.has_toolkit("12.4")
    if named:
        os.environ["cache_name"] = named
    for device, expected in (("cpu", for_cpu), ("cuda", for_cuda), ("cpu", for_cpu)):
        machine.monkeypatch.setattr(runtime, "_chosen", None)  # as another process, with this one's environment
        assert runtime.prepare(device) == device
        assert os.environ["cache_name"] == expected


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
from gpt2_jittor.runtime import runtime
runtime.prepare("cpu")
from gpt2_jittor.runtime.backend import jt
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
