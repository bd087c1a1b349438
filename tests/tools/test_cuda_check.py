"""`make cuda-check` on made-up machines, with made-up parts; tests/cuda_emulation runs the real ones."""

import json
import sys
from pathlib import Path

import pytest

from common.errors import UserError
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
    monkeypatch.setattr(sys, "argv", ["cuda_check", "--output", str(folder), "--size", "tiny"])

    monkeypatch.setattr(cuda_check, "ASK_TORCH", "print('9.9 True')")  # PyTorch itself takes seconds to say so

    def run(**parts):
        monkeypatch.setattr(cuda_check, "PARTS", parts or cuda_check.PARTS)
        status = cuda_check.main()
        return status, json.loads((folder / "report.json").read_text()), (folder / "report.md").read_text()

    return run


def well(part, size):
    part.status, part.detail = "passed", f"all of it, {size}"


def broken(part, size):
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


def runs_instead(monkeypatch, act, status: int = 0):
    """Puts `act(options)` in the place of a part's command."""

    def run(part, *command, **environment):
        act({name: value for name, _, value in (word.partition("=") for word in command)}, command)
        part.status = "failed" if status else "passed"
        return "this at last"

    monkeypatch.setattr(cuda_check, "_run", run)


@pytest.mark.parametrize(
    ("rows", "expected", "words"),
    [
        ([OURS], "passed", "all contestants"),
        ([OURS, {"name": "PyTorch", "failure": "PyTorch 2.13.0+cpu sees no device"}], "passed", "PyTorch not run: Py"),
        ([{"name": "this project", "failure": "out of memory"}], "failed", "this project not run: out of memory"),
    ],
)
def test_a_race_fails_where_somebody_does_unless_it_is_for_want_of_pytorchs_device(
    check, monkeypatch, rows, expected, words
):
    def write(options, command):
        assert command[:4] == ("benchmark.py", "train", "--device", "cuda") and "tiny" in command
        Path(command[-1]).write_text(json.dumps({"races": {"LoRA update, tiny": rows}}))

    runs_instead(monkeypatch, write)
    status, told, table = check(training=cuda_check.race)
    (part,) = told["parts"]
    assert (part["status"], status) == (expected, int(expected == "failed")) and words in part["detail"]
    assert "| LoRA update, tiny |" in table and ("| this project | 0.500 |" in table) == (rows[0] == OURS)


def test_a_race_that_breaks_down_has_failed_whatever_an_earlier_one_has_left(check, monkeypatch, tmp_path):
    monkeypatch.setattr(cuda_check, "ROOT", tmp_path)
    (tmp_path / "benchmark.py").write_text("raise SystemExit('no such option')")
    (tmp_path / "check").mkdir()
    (tmp_path / "check" / "training.json").write_text(json.dumps({"races": {"an earlier one": [OURS]}}))
    status, told, _ = check(training=cuda_check.race)
    assert status == 1 and told["parts"][0]["races"] == {}
    assert told["parts"][0]["detail"] == "RuntimeError: no such option"


SUITE = '<all><testsuite tests="{tests}" failures="{failures}" errors="0" skipped="{skipped}">{cases}</testsuite></all>'


@pytest.mark.parametrize(
    ("tests", "failures", "skipped", "cases", "expected", "words"),
    [
        (9, 0, 2, '<testcase name="well"/>', "passed", "7 of 7 tests passed, 2 skipped"),
        (
            9,
            1,
            2,
            '<testcase name="bad"><failure/></testcase>',
            "failed",
            "6 of 7 tests passed, 2 skipped; failed: bad",
        ),
        (2, 0, 2, "", "failed", "0 of 0 tests passed, 2 skipped"),  # what ran on no device has shown nothing
    ],
)
def test_the_parity_tests_are_counted(check, monkeypatch, tests, failures, skipped, cases, expected, words):
    def write(options, command):
        suite = SUITE.format(tests=tests, failures=failures, skipped=skipped, cases=cases)
        Path(options["--junitxml"]).write_text(suite)

    runs_instead(monkeypatch, write, status=failures)
    status, told, _ = check(parity=cuda_check.compare)
    assert (told["parts"][0]["status"], told["parts"][0]["detail"]) == (expected, words)


def test_a_command_that_does_not_end_is_a_failed_part(check, monkeypatch):
    monkeypatch.setattr(cuda_check, "HOURS", 0.5 / 3600)

    def sleep(part, size):
        cuda_check._run(part, "-c", "import time; print('asleep', flush=True); time.sleep(60)")

    status, told, _ = check(sleeper=sleep, next=well)
    assert status == 1 and [part["status"] for part in told["parts"]] == ["failed", "passed"]
    assert "not at an end" in told["parts"][0]["detail"]
    assert Path(told["parts"][0]["log"]).read_text() == "asleep\n"
