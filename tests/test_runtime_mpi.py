"""Open MPI, made up: what Jittor is shown of it, what the doctor says of it, how cores are shared."""

import os
import sys
from pathlib import Path
from unittest import mock

import pytest

from common.errors import UserError
from gpt2_jittor import doctor, runtime


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Puts programs into a folder; `tools` is on the PATH and has a compiler, and `prepare` may be called anew."""

    def program(name: str, says: str = "") -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\necho '{says}'\n")
        path.chmod(0o755)
        return str(path)

    program("tools/g++", "g++ 12.2.0")
    monkeypatch.setattr(runtime, "_chosen", None)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with mock.patch.dict(os.environ, PATH=str(tmp_path / "tools")):  # gives back what `prepare` sets, too
        for name in ("use_mpi", "mpicc_path", "OPAL_PREFIX", "OMP_NUM_THREADS"):
            os.environ.pop(name, None)
        yield program


def test_mpi_is_used_under_mpirun_only(programs):
    os.environ["OMPI_COMM_WORLD_SIZE"] = "2"
    with pytest.raises(UserError, match="mpicc.*apt install openmpi-bin"):
        runtime.prepare("cpu")
    mpicc = programs("tools/mpicc")
    runtime.prepare("cpu")
    assert (os.environ["use_mpi"], os.environ["mpicc_path"]) == ("1", mpicc)


def test_processes_on_one_machine_share_its_cores(programs, monkeypatch):
    os.environ.update(OMPI_COMM_WORLD_SIZE="6", OMPI_COMM_WORLD_LOCAL_SIZE="3", mpicc_path="/some/mpicc")
    for bound, threads in ((7, "2"), (1, "1")):  # of seven cores: free to run anywhere; bound to one
        monkeypatch.setattr(os, "sched_getaffinity", lambda number, bound=bound: range(7 if number else bound))
        os.environ.pop("OMP_NUM_THREADS", None)
        monkeypatch.setattr(runtime, "_chosen", None)
        runtime.prepare("cpu")
        assert os.environ["OMP_NUM_THREADS"] == threads


def test_mpirun_and_mpicc_are_those_of_one_folder(programs, monkeypatch):
    half, whole, compiler = programs("tools/mpirun"), programs("whole/mpirun"), programs("whole/mpicc")
    monkeypatch.setattr(sys, "executable", str(Path(whole).with_name("python")))
    assert (runtime.find_mpi("mpirun"), runtime.find_mpi("mpicc")) == (whole, compiler)
    Path(compiler).unlink()
    assert (runtime.find_mpi("mpirun"), runtime.find_mpi("mpicc")) == (half, None)


def test_the_mpicc_of_the_mpirun_that_started_this_comes_before_the_one_on_the_path(programs, tmp_path):
    for name in ("tools/mpirun", "tools/mpicc", "pips/bin/mpirun"):
        programs(name)
    compiler = programs("pips/bin/mpicc")
    os.environ["OPAL_PREFIX"] = str(tmp_path / "pips")
    assert runtime.find_mpi("mpicc") == compiler


@pytest.mark.parametrize(
    ("mpirun", "mpicc", "status", "words"),
    [
        (None, False, "ok", "openmpi-bin"),
        ("mpirun (Open MPI) 4.1.4", True, "ok", "(Open MPI) 4.1.4 at "),
        ("mpirun (Open MPI) 5.0.12", False, "warning", "without mpicc"),
        ("HYDRA build details:", True, "warning", "not Open MPI's"),
    ],
)
def test_mpi_is_optional_and_must_be_open_mpi_with_its_compiler(programs, mpirun, mpicc, status, words):
    if mpirun:
        programs("tools/mpirun", mpirun)
    if mpicc:
        programs("tools/mpicc")
    row = doctor.mpi()
    assert row.status == status and words in row.found
    assert row.mend or status == "ok"
