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


PARTS = ["doctor", "core", "kernels", "parity", "training, 128 tokens", "training, 1,024 tokens", "decoding", "profile"]


def test_every_part_runs_and_tells_what_pytorch_cannot_do(tmp_path):
    command = [sys.executable, "-m", "tools.cuda.check", "--size", "tiny", "--output", str(tmp_path)]
    ended = subprocess.run(command, env=home.environment(), capture_output=True, text=True, check=False)
    print(ended.stdout)
    told = json.loads((tmp_path / "report.json").read_text())
    parts = {part["name"]: part for part in told["parts"]}
    assert {name: part["status"] for name, part in parts.items()} == dict.fromkeys(PARTS, "passed")
    assert list(parts) == PARTS and ended.returncode == 0, ended.stdout + ended.stderr
    assert parts["doctor"]["detail"] == "Training can run here, on Emulated CUDA device."
    assert parts["core"]["detail"] in ("compiled now", "was compiled before")
    assert parts["kernels"]["detail"] == "10 of 10 agree"
    for name in PARTS[4:7]:
        assert "sees no device" in parts[name]["detail"]
        for rows in parts[name]["races"].values():
            ours = {row["name"]: row for row in rows if row["name"].startswith("this project")}
            assert list(ours) == ["this project", "this project, composed"]
            assert all(row["tokens_per_second"] > 0 and row["peak_mb"] > 0 for row in ours.values())
            assert all("failure" in row for row in rows if row["name"] not in ours)
    assert [title[-4:] for title in parts[PARTS[4]]["races"]] == ["fp32", "bf16"]
    rows = parts["profile"]["profile"]
    assert {"layer_norm_forward", "attention_backward", "adamw", "cublas_matmul"} <= {row["operator"] for row in rows}
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    table = (tmp_path / "report.md").read_text()
    assert "Emulated CUDA device" in table and "| this project |" in table and "sees no device" in table
    assert "| layer_norm_forward | 5 |" in table  # two blocks with two each, and the last one
