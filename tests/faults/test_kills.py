"""Runs that are killed, ended or interrupted, and taken up again: they end as if nothing had happened."""

import json
import signal
import subprocess

import ground
import pytest

from common.lock import LOCK


def kill_at(process: ground.Running, run_dir, random, steps: int) -> int:
    """Kills a run at some moment after it has begun: its start, a step, a validation, the writing of a checkpoint."""
    wanted = int(random.integers(0, steps + 1)) + ground.steps_logged(run_dir)
    begun = run_dir / "arguments.yaml"
    ground.wait_for(lambda: begun.is_file() and (run_dir / LOCK).is_file(), process)
    ground.wait_for(lambda: ground.steps_logged(run_dir) >= wanted, process)
    with_delay = random.random() * 0.03
    try:
        process.wait(with_delay)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    return process.finish().returncode


def kills(world, run_dir, random, steps: int, count: int) -> int:
    """Kills one run `count` times; returns how many of them found it running. Then lets it end."""
    hit = 0
    for number in range(count):
        # a run that never gets as far as its next checkpoint would not come to an end
        given = ground.training(world, run_dir, "--max-steps", steps, *(["--resume"] if number else []))
        hit += kill_at(ground.Running(given), run_dir, random, max(1, 2 * steps // count)) == -signal.SIGKILL
    result = ground.command(["train.py", "--output-dir", run_dir, "--resume"])
    assert result.returncode == 0, result.stderr
    assert "resuming from" in result.stdout
    return hit


def test_a_run_that_is_killed_again_and_again_ends_as_if_nothing_had_happened(world, undisturbed, tmp_path, rng):
    assert kills(world, tmp_path / "run", rng, steps=12, count=3) >= 1
    ground.assert_same_end(tmp_path / "run", undisturbed)


@pytest.mark.faults
def test_twenty_kills_at_random_moments_change_no_byte(world, tmp_path, rng):
    result = ground.command(ground.training(world, tmp_path / "whole", "--max-steps", 60))
    assert result.returncode == 0, result.stderr
    hit = kills(world, tmp_path / "run", rng, steps=60, count=20)
    print(f"{hit} of 20 kills hit")
    assert hit >= 15
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
