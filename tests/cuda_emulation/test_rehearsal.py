"""`make cuda-check` from end to end, on the emulated device, which no PyTorch sees."""

import json
import subprocess
import sys

import pytest

from tests.cuda_emulation import home

pytestmark = [
    pytest.mark.cuda_emulation,
    pytest.mark.skipif(home.on_device(), reason="it is what runs these tests"),
    pytest.mark.skipif(not home.installed(), reason=f"{home.WHEEL} is not installed: {home.INSTALL}"),
]


def test_every_part_runs_and_tells_what_pytorch_cannot_do(tmp_path):
    command = [sys.executable, "-m", "tools.cuda.check", "--size", "tiny", "--output", str(tmp_path)]
    ended = subprocess.run(command, env=home.environment(), capture_output=True, text=True, check=False)
    told = json.loads((tmp_path / "report.json").read_text())
    parts = {part["name"]: part for part in told["parts"]}
    assert {name: part["status"] for name, part in parts.items()} == dict.fromkeys(
        ("doctor", "operators", "parity", "training", "decoding", "first update"), "passed"
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert parts["doctor"]["detail"] == "Training can run here, on Emulated CUDA device."
    for name in ("training", "decoding", "first update"):
        assert "sees no device" in parts[name]["detail"]
        for rows in parts[name]["races"].values():
            ours = [row for row in rows if row["name"].startswith("this project")]
            assert ours and all(row["tokens_per_second"] > 0 and row["peak_mb"] > 0 for row in ours)
            assert name == "first update" or ours[1]["name"].endswith("CUDA kernels")
            assert all("failure" in row for row in rows if row not in ours)
    table = (tmp_path / "report.md").read_text()
    assert "Emulated CUDA device" in table and "| this project |" in table and "sees no device" in table
