"""How verdicts on CUDA kernels are found, kept and told, with made-up processes that prove them."""

import json
import re
import signal
import subprocess
from types import SimpleNamespace

import pytest
from places import ROOT

from gpt2_jittor.ops import verdicts
from gpt2_jittor.runtime.cuda.driver import Device, Driver

ALL = list(verdicts.OPERATORS)
READY = ["", ""]
GPU = Device("NVIDIA H100", 80 << 30, (9, 0))
DRIVER = Driver((13, 0), (GPU,))


def ended(*lines: list, status: int = 0, stderr: str = "") -> subprocess.CompletedProcess:
    """A process that has told these lines."""
    return subprocess.CompletedProcess([], status, "".join(json.dumps(line) + "\n" for line in lines), stderr)


def well(kernels) -> list[list]:
    return [READY, *([kernel, ""] for kernel in kernels)]


@pytest.fixture
def run(monkeypatch, tmp_path):
    """`run(processes)`: what a new run on the device finds of each kernel, and for which it had to start a process.

    Each of `processes` stands in for one: a function of the kernels that it is to prove.
    """

    def run(*processes, driver=DRIVER, flags="-arch=sm_90", cache=tmp_path):
        for function in (verdicts.proved, verdicts._verdicts, verdicts._driver):
            function.cache_clear()
        left, asked = list(processes), []

        def prove(kernels):
            asked.append(list(kernels))
            return left.pop(0)(kernels)

        flags = SimpleNamespace(cache_path=str(cache), nvcc_flags=flags)
        monkeypatch.setattr(verdicts, "jt", SimpleNamespace(flags=flags, __version__="1.3.11.0"))
        monkeypatch.setattr(verdicts.drivers, "ask", lambda: driver)
        monkeypatch.setattr(verdicts, "_prove", prove)
        found = [kernel for kernel in ALL if verdicts.proved(kernel)]
        assert [kernel for kernel in ALL if verdicts.proved(kernel)] == found and not left
        return found, asked

    yield run
    for function in (verdicts.proved, verdicts._verdicts, verdicts._driver):
        function.cache_clear()


def test_all_are_proved_once_and_that_is_kept(run, capsys, tmp_path):
    assert run(lambda kernels: ended(*well(kernels))) == (ALL, [ALL])
    assert capsys.readouterr().err == "Checking the CUDA kernels on NVIDIA H100 (once; they are compiled for it) ...\n"
    assert run() == (ALL, [])
    assert capsys.readouterr().err == ""
    assert not list(tmp_path.glob("*.log"))


def test_a_kernel_that_disagrees_is_never_run_and_each_run_says_so_in_a_line(run, capsys, tmp_path):
    def process(kernels):
        lines = [[kernel, "NaN in value 0" if kernel == "attention" else ""] for kernel in kernels]
        return ended(READY, *lines, stderr="what the compiler said")

    others = [kernel for kernel in ALL if kernel != "attention"]
    assert run(process) == (others, [ALL])
    (log,) = tmp_path.glob("*.log")
    assert log.read_text() == "what the compiler said"
    told = capsys.readouterr().err.splitlines()[1:]
    assert run() == (others, [])
    assert capsys.readouterr().err.splitlines() == told
    (line,) = told
    assert line.startswith("warning: the CUDA kernel attention failed its check on NVIDIA H100: NaN in value 0. ")
    assert "please report it" in line and str(log) in line


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (1, "it ended the process with status 1 (illegal address)"),
        (-signal.SIGSEGV, "it ended the process with status -11 (illegal address)"),
        (-signal.SIGALRM, "it did not come to an end"),
    ],
)
def test_where_the_process_dies_the_kernel_it_was_at_is_to_blame_and_the_others_go_on(run, capsys, status, words):
    def dies_at_the_third(kernels):
        return ended(*well(kernels[:2]), status=status, stderr="a page\nillegal address\n")

    found, asked = run(dies_at_the_third, lambda kernels: ended(*well(kernels)))
    assert (found, asked) == (ALL[:2] + ALL[3:], [ALL, ALL[3:]])
    assert f"the CUDA kernel {ALL[2]} failed its check on NVIDIA H100: {words}" in capsys.readouterr().err


def test_what_raises_is_the_last_of_its_process(run):
    """The device may have failed with it."""

    def raises_at_the_first(kernels):
        return ended(READY, [kernels[0], "CUDA error 700"])

    assert run(raises_at_the_first, lambda kernels: ended(*well(kernels))) == (ALL[1:], [ALL, ALL[1:]])


@pytest.mark.parametrize(
    "process",
    [
        lambda kernels: ended(status=1, stderr="the device is in use"),
        lambda kernels: ended(READY, status=-signal.SIGKILL, stderr="the device is in use"),
        lambda kernels: ended(
            READY, [kernels[0], "an error"], stderr="CUDA error: out of memory\nthe device is in use"
        ),
        lambda kernels: ended(READY, status=1, stderr="No space left on device\nthe device is in use"),
    ],
    ids=["cannot begin", "killed", "no memory", "no disk"],
)
def test_what_is_no_kernels_fault_is_not_held_against_it(run, capsys, process):
    assert run(process) == ([], [ALL])
    (line,) = capsys.readouterr().err.splitlines()[1:]
    assert line == (
        f"warning: the CUDA kernels {', '.join(ALL)} could not be checked (the device is in use): composed operators "
        "run in their place this time"
    )
    assert run(lambda kernels: ended(*well(kernels))) == (ALL, [ALL])


def test_what_was_found_before_a_process_was_killed_is_kept(run):
    killed = [lambda kernels: ended(*well(kernels[:2]), status=-signal.SIGKILL)] + [lambda kernels: ended(READY)]
    assert run(*killed) == (ALL[:2], [ALL, ALL[2:]])
    assert run(lambda kernels: ended(*well(kernels))) == (ALL, [ALL[2:]])


@pytest.mark.parametrize(
    "other",
    [
        {"driver": Driver((13, 1), (GPU,))},
        {"driver": Driver((13, 0), (Device("NVIDIA A100", 80 << 30, (9, 0)),))},
        {"driver": Driver((13, 0), (Device("NVIDIA H100", 80 << 30, (8, 0)),))},
        {"flags": "-arch=sm_80"},
    ],
    ids=["driver", "device", "capability", "flags"],
)
def test_another_machine_is_another_matter(run, other):
    process = lambda kernels: ended(*well(kernels))  # noqa: E731
    run(process)
    assert run(process, **other) == (ALL, [ALL])
    assert run() == run(**other) == (ALL, [])


SHARED = ["kernels/bits.h", "kernels/choice.h", "kernels/random.h", "kernels/shapes.h"]


@pytest.mark.parametrize("name", ["layer_norm.py", "kernels/cuda/common.cuh", *SHARED])
def test_another_source_is_another_matter(run, monkeypatch, tmp_path, name):
    ops = tmp_path / "ops"
    (ops / "kernels" / "cuda").mkdir(parents=True)
    for file in (path for pattern in verdicts.SOURCES for path in verdicts.HERE.glob(pattern)):
        (ops / file.relative_to(verdicts.HERE)).write_bytes(file.read_bytes())
    process = lambda kernels: ended(*well(kernels))  # noqa: E731
    run(process)
    monkeypatch.setattr(verdicts, "HERE", ops)
    assert run() == (ALL, [])  # the same, elsewhere
    (ops / name).write_text((ops / name).read_text() + "\n")
    assert run(process) == (ALL, [ALL])


def test_verdicts_that_were_damaged_are_found_again(run, tmp_path):
    process = lambda kernels: ended(*well(kernels))  # noqa: E731
    run(process)
    (kept,) = tmp_path.glob("cuda-kernels-*.json")
    for text in ("", "[]", "{}", '{"kernels": 3}'):
        kept.write_text(text)
        assert run(process) == (ALL, [ALL]), text


def test_under_mpirun_the_first_process_speaks_and_those_that_prove_run_by_themselves(run, monkeypatch, capsys):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "1")
    monkeypatch.setenv("PMIX_RANK", "1")
    monkeypatch.setenv("use_mpi", "1")
    assert (
        run(lambda kernels: ended(READY, [kernels[0], "broken"]), lambda kernels: ended(*well(kernels)))[0] == ALL[1:]
    )
    assert capsys.readouterr().err == ""
    given = verdicts._environment()
    assert not [name for name in given if name.startswith(("OMPI", "PMIX"))]
    assert (given["use_mpi"], given["GPT2_JITTOR_CUDA_KERNELS"]) == ("0", "0")


def test_every_kernel_that_is_asked_for_is_among_those_that_are_proved():
    asked = re.compile(r'(?:fused\.(?:enabled|enabled_on_cuda|products_on_cuda)|\bhas_kernel)\("(\w+)"')
    files = [file for package in ("gpt2_jittor", "generation") for file in (ROOT / package).rglob("*.py")]
    found = {name for file in files for name in asked.findall(file.read_text(encoding="utf-8"))}
    assert found == set(ALL)
