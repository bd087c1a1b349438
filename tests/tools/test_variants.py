"""The table of LoRA's variants: each that was asked for is trained once, and has a line."""

import os
import signal
import subprocess
import sys

import pytest
from commands import assert_one_line_error, command
from places import ROOT

from tests.faults import ground


@pytest.mark.long
def test_a_variant_is_trained_once_and_has_a_line(tmp_path):
    options = ["--data-dir", "sample", "--output-dir", tmp_path, "--max-steps", "3", "--only", "q and v alone"]
    made = []
    for _ in range(2):
        result = command("-m", "tools.variants", *options)
        assert result.returncode == 0, result.stderr
        *_, row = result.stdout.splitlines()
        assert row.startswith("| q and v alone | 32,768 |")  # 4 layers, A [16, 256], and B [256, 8] of either
        made.append((row, (tmp_path / "q-and-v-alone" / "metrics.jsonl").stat().st_mtime_ns))
    assert made[0] == made[1]
    result = command("-m", "tools.variants", *options, "--precision", "bf16")
    assert_one_line_error(result, "was made with precision fp32, not bf16", "--output-dir")


def test_a_variant_that_there_is_not_is_refused_by_name(tmp_path):
    result = command("-m", "tools.variants", "--data-dir", "sample", "--output-dir", tmp_path, "--only", "q and v")
    assert result.returncode == 2 and "q and v" in result.stderr and "q and v alone" in result.stderr


@pytest.mark.parametrize("send", [os.kill, os.killpg])
def test_when_it_is_ended_the_training_that_it_is_at_saves(tmp_path, send):
    line = [sys.executable, "-m", "tools.variants", "--data-dir", "sample", "--output-dir", tmp_path]
    line += ["--max-steps", "1000", "--only", "q and v alone"]
    with subprocess.Popen(line, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        run = tmp_path / "q-and-v-alone"
        ground.wait_for(lambda: ground.steps_logged(run) >= 2, process)
        send(process.pid, signal.SIGTERM)
        assert process.wait(60) == 143
    assert (run / f"checkpoint-{ground.steps_logged(run)}").is_dir()
