"""Signals as shells, schedulers and closed terminals send them, and output that nobody reads: they lose nothing."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.faults import ground
from training.checkpoint import check_manifest

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGUSR1: 143}
AT_ONCE = 10  # seconds; one step of this world takes hundredths of one
ENDLESS = ("--max-steps", "100000", "--eval-every", "100000", "--save-every", "100000")


def often(values, quick) -> list:
    """All of the values; those but `quick` in the long suite alone."""
    return [pytest.param(value, marks=() if value == quick else pytest.mark.faults) for value in values]


def names(values) -> list[str]:
    return [value.name for value in values]


def start(line: list[str], stdout=None, stderr=None, before=None) -> subprocess.Popen:
    """A training at the head of a process group of its own, as a shell starts it."""
    return subprocess.Popen(
        [sys.executable, *line],
        cwd=ground.ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL if stdout is None else stdout,
        stderr=subprocess.DEVNULL if stderr is None else stderr,
        start_new_session=True,
        preexec_fn=before,
        env=os.environ | ground.THREADS,
    )


def reach(process: subprocess.Popen, run_dir, steps: int) -> None:
    ground.wait_for(lambda: ground.steps_logged(run_dir) >= steps, process)
    assert process.poll() is None


def wait(process: subprocess.Popen) -> int:
    """Its exit status; it must not take longer than AT_ONCE."""
    try:
        return process.wait(AT_ONCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise


def assert_saved(run_dir) -> None:
    """Every step that was logged stands in a whole checkpoint, and nothing is half-written."""
    last = f"checkpoint-{ground.steps_logged(run_dir)}"
    assert last in [path.name for path in run_dir.glob("checkpoint-*")]
    for path in run_dir.glob("checkpoint-*"):
        check_manifest(path)
    assert not ground.unfinished(run_dir)


@pytest.mark.parametrize("number", often(STATUS, signal.SIGTERM), ids=names(STATUS))
def test_a_signal_to_the_whole_group_saves_and_the_resumed_run_ends_as_an_undisturbed_one(
    world, undisturbed, tmp_path, number
):
    run_dir = tmp_path / "run"
    process = start(ground.training(world, run_dir, "--max-steps", 12, "--save-every", 50))
    reach(process, run_dir, 3)
    os.killpg(process.pid, number)
    assert wait(process) == STATUS[number]
    assert_saved(run_dir)
    result = ground.command(["train.py", "--output-dir", run_dir, "--resume", "--save-every", "2"])
    assert result.returncode == 0, result.stderr
    ground.assert_same_end(run_dir, undisturbed)


@pytest.mark.parametrize("pause", often([0.0, 0.02, 0.3], 0.02))
def test_a_second_signal_ends_it_too_and_spoils_nothing(world, tmp_path, pause):
    run_dir = tmp_path / "run"
    process = start([*ground.training(world, run_dir), *ENDLESS])
    reach(process, run_dir, 3)
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(pause)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    assert wait(process) in (130, 143)
    for path in run_dir.glob("checkpoint-*"):
        check_manifest(path)
    assert not ground.unfinished(run_dir)


def disturb_at_random(world, tmp_path, random, times: int) -> None:
    """Signals to the process or to its group, from its very start on: it ends at once, and whole."""
    for attempt in range(times):
        run_dir, said = tmp_path / f"run{attempt}", tmp_path / f"said{attempt}"
        number = list(STATUS)[random.integers(len(STATUS))]
        delay, send = 0.3 + 4 * random.random(), [os.kill, os.killpg][random.integers(2)]
        with said.open("w") as file:
            process = start([*ground.training(world, run_dir), *ENDLESS], stdout=file, stderr=file)
        time.sleep(delay)  # Python itself has started by then
        send(process.pid, number)
        status, text = wait(process), said.read_text()
        assert status == STATUS[number], f"{number.name} after {delay:.2f} s: {status}\n{text}"
        assert "Traceback" not in text and "Error" not in text, text
        if ground.steps_logged(run_dir):
            assert_saved(run_dir)
        assert not ground.unfinished(tmp_path)


def test_a_signal_at_any_moment_ends_a_run_at_once(world, tmp_path, rng):
    disturb_at_random(world, tmp_path, rng, times=4)


@pytest.mark.faults
def test_forty_signals_at_any_moment_end_a_run_at_once(world, tmp_path, rng):
    disturb_at_random(world, tmp_path, rng, times=40)


def test_with_nohup_a_run_outlives_its_terminal(world, undisturbed, tmp_path):
    run_dir = tmp_path / "run"
    line = ground.training(world, run_dir, "--max-steps", 12)
    process = start(line, before=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    reach(process, run_dir, 2)
    os.killpg(process.pid, signal.SIGHUP)
    assert process.wait(60) == 0
    ground.assert_same_end(run_dir, undisturbed)


STORM = """
import runpy, signal, sys
heard = []
signal.signal(signal.SIGALRM, lambda *_: heard.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
sys.argv = sys.argv[1:]
try:
    runpy.run_path("train.py", run_name="__main__")
finally:
    signal.setitimer(signal.ITIMER_REAL, 0)
    print("heard", len(heard) > 200)
"""


def test_a_thousand_handlers_a_second_change_nothing(tmp_path):
    """Jittor bears none on its stack, where a single one can end a run in place of saving it."""
    line = ["train.py", "--task", "dailydialog", "--data-dir", "sample", "--max-steps", 3, "--eval-every", 3]
    for program in ([], ["-c", STORM]):
        result = ground.command([*program, *line, "--output-dir", tmp_path / f"run{len(program)}"])
        assert result.returncode == 0, result.stderr
    assert "heard True" in result.stdout
    assert ground.lines_of(tmp_path / "run0") == ground.lines_of(tmp_path / "run2")


def stalled_pipe() -> int:
    """The writing end of a pipe that is full and that somebody could read, but does not."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 512)
    os.set_blocking(writing, True)
    os.set_inheritable(reading, False)
    return writing


def broken_pipe() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def full_disk() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def close_outputs() -> None:
    os.close(1)
    os.close(2)


OUTPUTS = {"broken pipe": broken_pipe, "stalled pipe": stalled_pipe, "full disk": full_disk, "closed": None}


@pytest.mark.parametrize("output", often(OUTPUTS, "closed"))
def test_where_nobody_hears_it_a_run_saves_when_it_is_told_to_end(world, tmp_path, output):
    run_dir = tmp_path / "run"
    line = [*ground.training(world, run_dir), *ENDLESS]
    if output == "closed":
        process = start(line, before=close_outputs)
    else:
        heard = OUTPUTS[output]()
        process = start(line, stdout=heard, stderr=heard)
        os.close(heard)
    reach(process, run_dir, 3)
    os.kill(process.pid, signal.SIGTERM)
    assert wait(process) == 143
    assert_saved(run_dir)


def test_ctrl_c_at_a_pipeline_saves_though_the_reader_dies_of_it_first(world, tmp_path):
    run_dir, status = tmp_path / "run", tmp_path / "status"
    line = " ".join([sys.executable, *ground.training(world, run_dir), *ENDLESS])
    shell = f"trap : INT; {line} 2>&1 | tee /dev/null > /dev/null; echo ${{PIPESTATUS[0]}} > {status}"
    process = subprocess.Popen(
        ["bash", "-c", shell], cwd=ground.ROOT, start_new_session=True, env=os.environ | ground.THREADS
    )
    reach(process, run_dir, 3)
    os.killpg(process.pid, signal.SIGINT)
    wait(process)
    assert status.read_text().strip() == "130"
    assert_saved(run_dir)
