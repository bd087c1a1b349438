"""The doctor on made-up machines, row by row; and once as a command on this one and on one without packages."""

import http.server
import importlib.metadata
import os
import platform
import shutil
import socket
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from gpt2_jittor import doctor, runtime
from gpt2_jittor.doctor import Row
from gpt2_jittor.runtime import Cuda

ROOT = Path(__file__).resolve().parent.parent
NAMES = [
    "Python",
    "compiler",
    "Python headers",
    "numpy",
    "Jittor",
    "packages",
    "oneDNN",
    "NVIDIA driver",
    "CUDA toolkit",
    "cuDNN",
    "MPI",
    "memory",
    "disk",
    "hub",
]


def program(path: Path, says: str, status: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}'\nexit {status}\n")
    path.chmod(0o755)
    return path


def ask(*options: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, *options, "-m", "gpt2_jittor.doctor"]
    surroundings = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", **environment}
    return subprocess.run(command, cwd=ROOT, env=surroundings, capture_output=True, text=True, check=False)


def statuses(output: str) -> dict[str, str]:
    """Name and status of each row of a printed table."""
    rows = [line for line in output.splitlines() if line.startswith(tuple(NAMES))]
    return {name: row[len(name) :].split()[0] for row in rows for name in NAMES if row.startswith(f"{name}  ")}


def test_a_machine_that_runs_these_tests_can_train():
    ended = ask()
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert list(statuses(ended.stdout)) == NAMES
    assert "failed" not in statuses(ended.stdout).values()
    assert ended.stdout.endswith("Training can run here.\n") and ended.stderr == ""


def test_it_runs_without_any_package_and_says_how_to_install_them():
    ended = ask("-S", PYTHONPATH="")  # no site-packages
    assert ended.returncode == 1
    assert list(statuses(ended.stdout)) == NAMES and ended.stderr == ""
    failed = [name for name, status in statuses(ended.stdout).items() if status == "failed"]
    assert failed == ["numpy", "Jittor", "packages"]
    assert "-m pip install -r requirements.txt" in ended.stdout


def test_it_runs_without_a_compiler(tmp_path):
    ended = ask(PATH=str(tmp_path), cc_path="")
    assert ended.returncode == 1 and ended.stderr == ""
    assert statuses(ended.stdout)["compiler"] == "failed"
    assert "apt install g++" in ended.stdout


@pytest.mark.parametrize(("worst", "expected"), [("ok", 0), ("warning", 0), ("failed", 1)])
def test_only_a_failed_row_ends_with_status_1(monkeypatch, capsys, worst, expected):
    rows = [Row("first", "ok", "here"), Row("second", worst, "half of it", "do this")]
    monkeypatch.setattr(doctor, "CHECKS", [lambda row=row: row for row in rows])
    monkeypatch.setattr(sys, "argv", ["doctor"])
    assert doctor.main() == expected
    printed = capsys.readouterr().out
    assert ("-> do this" in printed) == (worst != "ok")
    assert ("second" in printed.splitlines()[-1]) == (worst == "failed")


def test_a_check_that_breaks_is_a_failed_row_among_the_others(monkeypatch):
    def broken():
        raise RuntimeError("no idea")

    monkeypatch.setattr(doctor, "CHECKS", (broken, doctor.cudnn))
    first, second = doctor.examine()
    assert (first.name, first.status) == ("broken", "failed") and "RuntimeError: no idea" in first.found
    assert second == doctor.cudnn()


@pytest.mark.parametrize(
    ("version", "status"),
    [((3, 10, 4), "failed"), ((3, 11, 0), "ok"), ((3, 12, 1), "warning"), ((3, 13, 0), "failed")],
)
def test_python_is_new_enough_and_not_too_new_for_numpy_1(monkeypatch, version, status):
    monkeypatch.setattr(sys, "version_info", version)
    assert doctor.python().status == status


@pytest.mark.parametrize(("status", "row"), [(0, "ok"), (1, "failed")])
def test_a_compiler_must_run_to_count(monkeypatch, tmp_path, status, row):
    monkeypatch.setenv("cc_path", str(program(tmp_path / "g++", "g++ 12.2.0", status)))
    assert doctor.compiler().status == row
    assert "g++ 12.2.0" in doctor.compiler().found


def test_missing_python_headers_name_the_package(monkeypatch, tmp_path):
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    row = doctor.headers()
    assert row.status == "failed" and f"apt install python3.{sys.version_info.minor}-dev" in row.mend


@pytest.mark.parametrize("config", ["absent", "of another Python", "right"])
def test_python_config_must_be_this_pythons(monkeypatch, tmp_path, config):
    (tmp_path / "Python.h").touch()
    suffix = sysconfig.get_config_var("EXT_SUFFIX") if config == "right" else ".cpython-39-x86_64-linux-gnu.so"
    script = None if config == "absent" else program(tmp_path / "config", suffix)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(runtime, "find_python_config", lambda: script)
    row = doctor.headers()
    assert row.status == ("ok" if config == "right" else "failed")
    assert (config == "right") != ("python_config_path" in row.mend)


def installed(monkeypatch, **versions: str | None):
    """Makes `versions` the installed ones; None for a package that is not."""
    real = importlib.metadata.version

    def version(name: str) -> str:
        found = versions[name] if name in versions else real(name)
        if found is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(importlib.metadata, "version", version)


def answering(monkeypatch, works: bool, *said: str):
    monkeypatch.setattr(doctor, "_run", lambda *command: (works, list(said)))


@pytest.mark.parametrize(
    ("version", "imports", "status"),
    [(None, False, "failed"), ("2.1.0", True, "failed"), ("1.26.4", False, "failed"), ("1.26.4", True, "ok")],
)
def test_numpy_is_version_1_and_whole(monkeypatch, version, imports, status):
    installed(monkeypatch, numpy=version)
    answering(monkeypatch, imports, "ImportError: numpy is in pieces")
    row = doctor.numpy()
    assert row.status == status
    assert (status == "ok") != ("pip install -r requirements.txt" in row.mend)


def test_jittor_that_is_absent_fails_and_another_version_warns(monkeypatch):
    installed(monkeypatch, jittor=None)
    assert doctor.jittor().status == "failed"
    installed(monkeypatch, jittor="1.3.9.14")
    assert doctor.jittor().status == "warning"


@pytest.mark.parametrize(
    ("works", "said", "status", "words"),
    [
        (True, "True", "ok", "compiled in"),
        (True, "False", "warning", "compiled at first use, about 4 minutes"),
        (False, "ImportError: jittor is in pieces", "failed", "jittor is in pieces"),
    ],
)
def test_jittors_core_is_compiled_or_will_be(monkeypatch, works, said, status, words):
    installed(monkeypatch, jittor="1.3.11.0")
    answering(monkeypatch, works, said)
    row = doctor.jittor()
    assert row.status == status and words in row.found + row.mend


def test_missing_packages_fail_and_other_versions_warn(monkeypatch):
    installed(monkeypatch, safetensors="0.1.0")
    assert doctor.packages().status == "warning" and "safetensors 0.1.0" in doctor.packages().found
    installed(monkeypatch, safetensors="0.1.0", tqdm=None)
    assert doctor.packages().status == "failed" and "not installed: tqdm" in doctor.packages().found


@pytest.mark.parametrize(
    ("machine", "cached", "status", "words"),
    [
        ("x86_64", False, "warning", "pip install"),
        ("x86_64", True, "ok", "from earlier"),
        ("aarch64", False, "warning", "needs a network once"),
    ],
)
def test_onednn_from_elsewhere_than_pip(monkeypatch, tmp_path, machine, cached, status, words):
    monkeypatch.setattr(runtime, "find_onednn", lambda: None)
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(doctor, "_jittor_cache", lambda: tmp_path)
    if cached:
        program(tmp_path / "mkl" / "dnnl_lnx_2.2.0_cpu_gomp" / "lib" / "libmkldnn.so", "")
    row = doctor.onednn()
    assert row.status == status and words in row.found + row.mend


def test_a_machine_with_nothing_of_cuda_is_well(monkeypatch):
    monkeypatch.setattr(runtime, "find_cuda", lambda: Cuda(problem="no NVIDIA driver was found"))
    assert [row().status for row in (doctor.driver, doctor.toolkit, doctor.cudnn)] == ["ok", "ok", "ok"]


@pytest.fixture
def nvcc(tmp_path) -> str:
    """The nvcc of a toolkit with its library."""
    path = program(tmp_path / "cuda" / "bin" / "nvcc", "")
    (tmp_path / "cuda" / "lib64").mkdir()
    (tmp_path / "cuda" / "lib64" / "libcudart.so").touch()
    return str(path)


@pytest.mark.parametrize(
    ("devices", "driver", "toolkit", "expected", "words"),
    [
        (2, (12, 4), (12, 1), ("ok", "ok"), "devices: 2"),
        (0, (0, 0), (12, 1), ("warning", "ok"), "install the driver"),
        (0, (0, 0), (13, 0), ("warning", "warning"), "CUDA 10.2 to 12, not 13.0"),
        (0, (12, 4), (12, 1), ("warning", "ok"), "CUDA_VISIBLE_DEVICES"),
        (1, (13, 0), (13, 0), ("ok", "warning"), "CUDA 10.2 to 12, not 13.0"),
        (1, (11, 8), (12, 4), ("ok", "warning"), "older than the toolkit's 12.4"),
        (1, (12, 4), None, ("ok", "warning"), "install the CUDA toolkit, 11 or 12"),
    ],
)
def test_cuda_that_is_half_there_is_a_warning_that_says_what_is_missing(
    monkeypatch, nvcc, devices, driver, toolkit, expected, words
):
    monkeypatch.setattr(runtime, "_driver", lambda: (devices, driver))
    monkeypatch.setattr(runtime, "nvcc_version", lambda path: toolkit)
    monkeypatch.setattr(runtime, "USUAL_NVCC", "/nowhere/nvcc")
    monkeypatch.setenv("PATH", str(Path(nvcc).parent) if toolkit else "/nowhere")
    monkeypatch.delenv("nvcc_path", raising=False)
    rows = doctor.driver(), doctor.toolkit()
    assert tuple(row.status for row in rows) == expected
    assert words in " ".join(row.found + row.mend for row in rows)


@pytest.mark.parametrize(("free", "status"), [(50e9, "ok"), (1.9e9, "warning"), (0.4e9, "failed")])
def test_little_room_warns_and_none_fails(monkeypatch, tmp_path, free, status):
    monkeypatch.setattr(doctor, "_jittor_cache", lambda: tmp_path / "not" / "yet")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    assert doctor.disk().status == status
    assert str(tmp_path) in doctor.disk().found


def test_a_cache_that_cannot_be_written_fails(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "_jittor_cache", lambda: tmp_path)
    monkeypatch.setattr(os, "access", lambda folder, mode: folder != tmp_path)
    assert doctor.disk().status == "failed" and f"{tmp_path} cannot be written" in doctor.disk().found


@pytest.mark.parametrize(("pages", "status"), [(1_000_000, "ok"), (300_000, "warning"), (100_000, "failed")])
def test_little_memory_warns_and_none_fails(monkeypatch, pages, status):
    monkeypatch.setattr(os, "sysconf", lambda name: 4096 if name == "SC_PAGE_SIZE" else pages)
    monkeypatch.setattr(Path, "read_text", lambda self: "MemAvailable:   64000000 kB" if "proc" in str(self) else "max")
    assert doctor.memory().status == status


def test_the_cache_is_where_jittor_remembers_it(monkeypatch, tmp_path):
    monkeypatch.delenv("JITTOR_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert doctor._jittor_cache() == tmp_path / ".cache" / "jittor"
    program(tmp_path / ".cache" / "jittor" / "config.json", "").write_text('{"JITTOR_HOME": "/remembered"}')
    assert doctor._jittor_cache() == Path("/remembered/.cache/jittor")
    monkeypatch.setenv("JITTOR_HOME", "/given")
    assert doctor._jittor_cache() == Path("/given/.cache/jittor")


class Answer(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


@pytest.mark.parametrize(("status", "expected"), [(200, "ok"), (404, "ok"), (503, "warning")])
def test_a_hub_that_answers_is_reachable_unless_it_is_broken(monkeypatch, no_proxy, status, expected):
    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        server.status = status
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        row = doctor.hub()
        server.shutdown()
    assert row.status == expected


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "huggingface.co", "silent"])
def test_no_hub_is_a_warning_for_everything_else_works_offline(monkeypatch, no_proxy, endpoint):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes a call and says nothing
        address = f"http://127.0.0.1:{silent.getsockname()[1]}" if endpoint == "silent" else endpoint
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setattr(doctor, "HUB_SECONDS", 0.2)
        row = doctor.hub()
    assert row.status == "warning" and address in row.found and "--model nano" in row.mend


def test_a_name_server_that_does_not_answer_does_not_hold_the_doctor(monkeypatch):
    released = threading.Event()
    monkeypatch.setattr(doctor, "_unreachable", lambda address: released.wait(60))
    monkeypatch.setattr(doctor, "HUB_SECONDS", -0.9)
    assert "no answer" in doctor.hub().found
    released.set()
