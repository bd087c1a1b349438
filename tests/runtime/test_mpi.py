"""Open MPI, made up: what Jittor is shown of it, what the doctor says of it, how cores are shared."""

import os
import sys
from pathlib import Path

import pytest
from machines import program

from common.errors import UserError
from gpt2_jittor.doctor import software
from gpt2_jittor.runtime import runtime


def test_mpi_is_used_under_mpirun_only(machine):
    os.environ["OMPI_COMM_WORLD_SIZE"] = "2"
    with pytest.raises(UserError, match="mpicc.*apt install openmpi-bin"):
        runtime.prepare("cpu")
    mpicc = machine.has("mpicc")
    runtime.prepare("cpu")
    assert (os.environ["use_mpi"], os.environ["mpicc_path"]) == ("1", mpicc)


def test_processes_on_one_machine_share_its_cores(machine, monkeypatch):
    os.environ.update(OMPI_COMM_WORLD_SIZE="6", OMPI_COMM_WORLD_LOCAL_SIZE="3", mpicc_path="/some/mpicc")
    for bound, threads in ((7, "2"), (1, "1")):  # of seven cores: free to run anywhere; bound to one
        monkeypatch.setattr(os, "sched_getaffinity", lambda number, bound=bound: range(7 if number else bound))
        os.environ.pop("OMP_NUM_THREADS", None)
        monkeypatch.setattr(runtime, "_chosen", None)
        runtime.prepare("cpu")
        assert os.environ["OMP_NUM_THREADS"] == threads


def test_mpirun_and_mpicc_are_those_of_one_folder(machine, monkeypatch):
    half = machine.has("mpirun")
    whole, compiler = (str(program(machine.folder / "whole" / name, "")) for name in ("mpirun", "mpicc"))
    monkeypatch.setattr(sys, "executable", str(Path(whole).with_name("python")))
    assert (runtime.find_mpi("mpirun"), runtime.find_mpi("mpicc")) == (whole, compiler)
    Path(compiler).unlink()
    assert (runtime.find_mpi("mpirun"), runtime.find_mpi("mpicc")) == (half, None)


def test_the_mpicc_of_the_mpirun_that_started_this_comes_before_the_one_on_the_path(machine):
    for name in ("mpirun", "mpicc"):
        machine.has(name)
        compiler = program(machine.folder / "pips" / "bin" / name, "")
    os.environ["OPAL_PREFIX"] = str(machine.folder / "pips")
    assert runtime.find_mpi("mpicc") == str(compiler)


@pytest.mark.parametrize(
    ("mpirun", "mpicc", "status", "words"),
    [
        (None, False, "ok", "openmpi-bin"),
        ("mpirun (Open MPI) 4.1.4", True, "ok", "(Open MPI) 4.1.4 at "),
        ("mpirun (Open MPI) 5.0.12", False, "warning", "without mpicc"),
        ("HYDRA build details:", True, "warning", "not Open MPI's"),
    ],
)
def test_mpi_is_optional_and_must_be_open_mpi_with_its_compiler(machine, mpirun, mpicc, status, words):
    if mpirun:
        machine.has("mpirun", mpirun)
    if mpicc:
        machine.has("mpicc")
    row = software.mpi()
    assert row.status == status and words in row.found
    assert row.mend or status == "ok"
