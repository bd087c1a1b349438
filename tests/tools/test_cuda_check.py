"""`make cuda-check` on made-up machines, with made-up parts; tests/cuda_emulation runs the real ones."""

import functools
import json
import sys
import time
from pathlib import Path

import pytest

from common.errors import UserError
from gpt2_jittor.runtime.cuda.driver import Device
from tools.cuda import check as cuda_check

FIGURES = {"seconds": 0.5, "min": 0.4, "max": 0.6, "of_eager": 0.5, "of_floor": float("nan"), "tokens_per_second": 64.0}
OURS = FIGURES | {"name": "this project", "peak_mb": 700.0, "first_unit": 3.0, "ready": 5.0, "outcome": 9.0}
EXECUTABLE = sys.executable  # the machine's own: a made-up machine has none


@pytest.fixture
def check(machine, monkeypatch, tmp_path):
    """Runs the whole check on a made-up machine with a GPU; returns its status, its JSON and its table."""
    machine.has_driver((12, 4))
    machine.has_toolkit("12.4")
    monkeypatch.setattr(sys, "executable", EXECUTABLE)
    folder = tmp_path / "check"
    monkeypatch.setattr(cuda_check, "ASK_TORCH", "print('9.9 True')")  # PyTorch itself takes seconds to say so

    def run(*words, **acts):
        monkeypatch.setattr(sys, "argv", ["cuda_check", "--output", str(folder), *words])
        tasks = {name: cuda_check.Task(act, 60, 30) for name, act in acts.items()}
        monkeypatch.setattr(cuda_check, "TASKS", tasks)
        status = cuda_check.main()
        return status, json.loads((folder / "report.json").read_text()), (folder / "report.md").read_text()

    return run


def well(part, given):
    part.status, part.detail = "passed", f"all of it, {given.size}"


def broken(part, given):
    raise RuntimeError("the device fell off the bus")


def test_without_a_device_there_is_one_line(machine, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["cuda_check"])
    with pytest.raises(UserError, match="^no CUDA device can be used: no NVIDIA driver was found: .*make doctor"):
        cuda_check.main()


def test_a_part_that_breaks_does_not_stop_the_others(check, capsys):
    status, told, table = check(first=broken, second=well)
    assert status == 1
    assert [(part["name"], part["status"]) for part in told["parts"]] == [("first", "failed"), ("second", "passed")]
    assert told["parts"][0]["detail"] == "RuntimeError: the device fell off the bus"
    assert "| first | FAILED |" in table and "| second | ok |" in table
    assert capsys.readouterr().out.splitlines()[-1].startswith("failed: first (")


def test_where_all_is_well_the_status_is_0_and_the_machine_is_described(check):
    status, told, table = check(only=well)
    assert status == 0
    assert told["surroundings"]["devices"] == "NVIDIA GeForce RTX 3060, 12.6 GB, compute capability 8.6"
    assert told["surroundings"]["torch, and whether it sees a device"] == "9.9 True"
    assert told["surroundings"]["commit"] == "none"  # there is no git on the machine
    assert "RTX 3060" in table and "CUDA 12.4" in table


def runs_instead(monkeypatch, act, status: str = "passed"):
    """Puts `act(options, words, log)` in the place of a part's command."""

    def run(part, *command, **environment):
        act(dict(zip(command, command[1:], strict=False)), command, Path(part.log))
        part.status = status
        if status == "cut off":
            part.detail = "cut off after 60 s: "
        return "this at last"

    monkeypatch.setattr(cuda_check, "_run", run)


@pytest.mark.parametrize(
    ("rows", "ended", "expected", "words"),
    [
        ([OURS], "passed", "passed", "1 contestants"),
        (
            [OURS, {"name": "PyTorch", "failure": "PyTorch 2.13.0+cpu sees no device"}],
            "passed",
            "passed",
            "PyTorch not run: Py",
        ),
        (
            [{"name": "this project", "failure": "out of memory"}],
            "passed",
            "failed",
            "this project not run: out of memory",
        ),
        ([OURS], "cut off", "cut off", "cut off after 60 s: 1 contestants"),
    ],
)
def test_a_race_fails_where_somebody_does_unless_it_is_for_want_of_pytorchs_device(
    check, monkeypatch, rows, ended, expected, words
):
    def write(options, command, log):
        assert command[:4] == ("benchmark.py", "train", "--device", "cuda") and options["--size"] == "tiny"
        Path(options["--json"]).write_text(json.dumps({"races": {"LoRA update, tiny": rows}}))

    runs_instead(monkeypatch, write, ended)
    act = functools.partial(cuda_check.train, length=128)
    status, told, table = check("--size", "tiny", training=act)
    (part,) = told["parts"]
    assert (part["status"], status) == (expected, int(expected != "passed")) and words in part["detail"]
    assert "| LoRA update, tiny |" in table and ("| this project | 0.500 |" in table) == (rows[0] == OURS)


@pytest.mark.parametrize(("capability", "precisions"), [((8, 6), ["fp32", "bf16"]), ((7, 5), ["fp32"])])
def test_training_is_timed_in_what_the_device_has_by_the_python_that_has_pytorch(
    check, monkeypatch, machine, capability, precisions
):
    machine.has_driver((12, 4), Device("a GPU", 8 << 30, capability))
    asked = []

    def write(options, command, log):
        asked.append((options, command))
        Path(options["--json"]).write_text(json.dumps({"races": {"LoRA update": [OURS]}}))

    runs_instead(monkeypatch, write)
    check("--torch-python", EXECUTABLE, "--quick", training=functools.partial(cuda_check.train, length=1024))
    ((options, command),) = asked
    start = command.index("--precision") + 1
    assert list(command[start : start + len(precisions) + 1]) == [*precisions, "--rounds"]
    assert options["--torch-python"] == EXECUTABLE and options["--time"] == "1024"
    assert command[command.index("--without") :][:3] == ("--without", "composed", "compile")


@pytest.mark.parametrize("act", [functools.partial(cuda_check.train, length=128), cuda_check.profile])
def test_a_part_that_breaks_down_has_failed_whatever_an_earlier_one_has_left(check, monkeypatch, tmp_path, act):
    monkeypatch.setattr(cuda_check, "ROOT", tmp_path)
    (tmp_path / "benchmark.py").write_text("raise SystemExit('no such option')")
    (tmp_path / "tools" / "cuda").mkdir(parents=True)
    (tmp_path / "tools" / "cuda" / "times.py").write_text("raise SystemExit('no such option')")
    (tmp_path / "check").mkdir()
    (tmp_path / "check" / "part.json").write_text(json.dumps({"races": {"an earlier one": [OURS]}}))
    status, told, _ = check(part=act)
    assert status == 1 and (told["parts"][0]["races"], told["parts"][0]["profile"]) == ({}, [])
    assert told["parts"][0]["detail"] == "RuntimeError: no such option"


def test_a_profile_is_a_table_of_the_longest_operators(check, monkeypatch):
    rows = [{"operator": f"operator{n}", "count": 2, "ms": 30.0 - n, "share": 0.01} for n in range(30)]
    runs_instead(monkeypatch, lambda options, command, log: Path(options["--json"]).write_text(json.dumps(rows)))
    status, told, table = check(profile=cuda_check.profile)
    assert status == 0 and told["parts"][0]["profile"] == rows
    assert told["parts"][0]["detail"] == "60 operators of 30 kinds"
    assert "| operator24 | 2 | 6.000 | 1.0% |" in table and "operator25" not in table
    assert "| 5 more | 10 | 15.000 | |" in table and "| all | 60 | 465.000 | |" in table


LINES = """
tests/a.py::test_one PASSED [ 10%]
tests/a.py::test_two[with words-1] PASSED [ 20%]
tests/b.py::test_three SKIPPED (no reason) [ 30%]
"""


@pytest.mark.parametrize(
    ("lines", "ended", "expected", "words"),
    [
        (LINES, "passed", "passed", "2 tests passed, 1 skipped"),
        (LINES, "cut off", "cut off", "cut off after 60 s: 2 tests passed, 1 skipped"),
        (
            LINES + "tests/b.py::test_four FAILED [ 40%]\nFAILED tests/b.py::test_four - assert\n",
            "failed",
            "failed",
            "2 tests passed, 1 skipped; failed: test_four",
        ),
        ("tests/b.py::test_three SKIPPED [ 9%]\n", "passed", "failed", "0 tests passed, 1 skipped: this at last"),
        ("", "failed", "failed", "0 tests passed, 0 skipped: this at last"),  # pytest is not installed
    ],
)
def test_the_parity_tests_are_counted_as_far_as_they_got(check, monkeypatch, lines, ended, expected, words):
    runs_instead(monkeypatch, lambda options, command, log: log.write_text(lines), ended)
    status, told, _ = check(parity=cuda_check.compare)
    assert (told["parts"][0]["status"], told["parts"][0]["detail"]) == (expected, words)


def test_a_part_whose_time_is_over_is_ended_with_all_that_it_started_and_the_next_goes_on(check, monkeypatch, tmp_path):
    started = tmp_path / "started"
    child = f"import os, time; open({str(started)!r}, 'w').write(str(os.getpid())); time.sleep(60)"

    def sleep(part, given):
        part.limit = 3.0
        words = (
            f"import subprocess, sys; print('asleep', flush=True); subprocess.run([sys.executable, '-c', {child!r}])"
        )
        cuda_check._run(part, "-c", words)

    status, told, table = check(sleeper=sleep, next=well)
    assert status == 1 and [part["status"] for part in told["parts"]] == ["cut off", "passed"]
    assert told["parts"][0]["detail"] == "cut off after 3 s: " and "| sleeper | CUT OFF |" in table
    assert Path(told["parts"][0]["log"]).read_text() == "asleep\n"
    deadline = time.monotonic() + 5
    while Path("/proc", started.read_text(), "stat").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path("/proc", started.read_text(), "stat").exists()


def test_what_a_part_does_not_need_the_next_ones_may_take(check):
    _, told, _ = check(first=well, second=well)
    assert [part["limit"] for part in told["parts"]] == [60, pytest.approx(120, abs=5)]
    _, told, _ = check("--quick", first=well, second=well)
    assert [part["limit"] for part in told["parts"]] == [30, pytest.approx(60, abs=5)]


def test_all_parts_together_take_ten_minutes_and_quickly_five():
    tasks = cuda_check.TASKS.values()
    assert (sum(task.full for task in tasks), sum(task.quick for task in tasks)) == (600, 300)
    assert list(cuda_check.TASKS)[:4] == ["doctor", "core", "kernels", "parity"]
