"""The doctor's table: as a command on this machine and on ones without packages or compiler, and its verdict."""

import os
import subprocess
import sys

import pytest
from places import ROOT

from gpt2_jittor.doctor import __main__ as doctor
from gpt2_jittor.doctor import cuda
from gpt2_jittor.doctor.row import Row

NAMES = [
    "Python",
    "compiler",
    "Python headers",
    "numpy",
    "Jittor",
    "packages",
    "oneDNN",
    "NVIDIA driver",
    "CUDA devices",
    "CUDA toolkit",
    "compiler for CUDA",
    "cuDNN",
    "MPI",
    "memory",
    "disk",
    "hub",
]


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
    assert ended.stdout.splitlines()[-1].startswith("Training can run here, on ") and ended.stderr == ""


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

    monkeypatch.setattr(doctor, "CHECKS", (broken, cuda.cudnn))
    first, second = doctor.examine()
    assert (first.name, first.status) == ("broken", "failed") and "RuntimeError: no idea" in first.found
    assert second == cuda.cudnn()
