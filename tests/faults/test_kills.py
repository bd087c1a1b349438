"""Runs that are killed, ended or interrupted, and taken up again: they end as if nothing had happened."""

import json
import signal
import subprocess

import pytest

from common.lock import LOCK
from tests.faults import ground

REACH = 2  # updates that a run makes before it is killed, at most


def kill_at(process: ground.Running, run_dir, random) -> int:
    """Kills a run at some moment after it has begun: its start, a step, a validation, the writing of a checkpoint."""
    wanted = int(random.integers(0, REACH + 1)) + ground.steps_logged(run_dir)
    begun = run_dir / "arguments.yaml"
    ground.wait_for(lambda: begun.is_file() and (run_dir / LOCK).is_file(), process)
    ground.wait_for(lambda: ground.steps_logged(run_dir) >= wanted, process)
    with_delay = random.random() * 0.03
    try:
        process.wait(with_delay)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    return process.finish().returncode


def kill_and_resume(world, run_dir, random, steps: int, count: int, **environment) -> None:
    """Kills one run `count` times, each time while it runs, then lets it end."""
    for number in range(count):
        given = ground.training(world, run_dir, "--max-steps", steps, *(["--resume"] if number else []))
        assert kill_at(ground.Running(given, **environment), run_dir, random) == -signal.SIGKILL
    result = ground.command(["train.py", "--output-dir", run_dir, "--resume"], **environment)
    assert result.returncode == 0, result.stderr
    assert "resuming from" in result.stdout


def test_a_run_that_is_killed_again_and_again_ends_as_if_nothing_had_happened(world, undisturbed, tmp_path, rng):
    kill_and_resume(world, tmp_path / "run", rng, steps=12, count=2)
    ground.assert_same_end(tmp_path / "run", undisturbed)


def test_on_several_threads_too_a_killed_run_ends_with_the_bytes_of_one_that_was_not(world, tmp_path, rng):
    """As users run it; the other tests of this folder have one thread, for speed."""
    threads = {"OMP_NUM_THREADS": "3"}
    whole = ground.command(ground.training(world, tmp_path / "whole", "--max-steps", 8), **threads)
    assert whole.returncode == 0, whole.stderr
    kill_and_resume(world, tmp_path / "run", rng, steps=8, count=1, **threads)
    ground.assert_same_end(tmp_path / "run", tmp_path / "whole")


@pytest.mark.faults
def test_twenty_kills_at_random_moments_change_no_byte(world, tmp_path, rng):
    steps = 20 * 3 * REACH  # with the updates that slip through before a kill, never the end
    result = ground.command(ground.training(world, tmp_path / "whole", "--max-steps", steps))
    assert result.returncode == 0, result.stderr
    kill_and_resume(world, tmp_path / "run", rng, steps, count=20)
    ground.assert_same_end(tmp_path / "run", tmp_path / "whole")
    answers = [answers_of(tmp_path / name) for name in ("whole", "run")]
    assert len(answers[0]) == 2 and answers[0] == answers[1]


def answers_of(run_dir) -> list[str]:
    """What the trained model says, drawn with a seed."""
    given = ["--prompt", "tea ?", "--seed", 3, "--json", "--samples", 2]
    result = ground.command(["generate.py", "--adapter", run_dir, *given])
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)["answers"]


def test_sigterm_lets_the_step_end_saves_and_says_how_to_go_on_and_nobody_else_may_in_between(
    world, undisturbed, tmp_path
):
    run_dir = tmp_path / "run"
    given = ground.training(world, run_dir, "--max-steps", 12)
    process = ground.Running(given)
    ground.wait_for(lambda: (run_dir / LOCK).is_file(), process)
    process.send_signal(signal.SIGSTOP)
    ground.assert_told(ground.command(given), 2, run_dir, "another training works", process.pid)
    process.send_signal(signal.SIGCONT)
    ground.wait_for(lambda: ground.steps_logged(run_dir) >= 4, process)
    process.send_signal(signal.SIGTERM)
    ended = process.finish()
    ground.assert_told(ended, 143)
    assert f"--output-dir {run_dir} --resume" in ended.stdout + ended.stderr
    assert not ground.unfinished(run_dir)
    result = ground.command(["train.py", "--output-dir", run_dir, "--resume"])
    assert result.returncode == 0, result.stderr
    ground.assert_same_end(run_dir, undisturbed)


@pytest.mark.parametrize("delay", [0.6, 1.2, 1.6, 2.0, 2.4, 2.8, 3.2])
@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.faults
def test_a_signal_while_a_run_starts_ends_it_cleanly(world, tmp_path, number, status, delay):
    process = ground.Running(ground.training(world, tmp_path / "run", "--max-steps", 2000))
    try:
        process.wait(delay)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
    ground.assert_told(process.finish(), status)
    assert not ground.unfinished(tmp_path)
