"""The table of LoRA's variants: each that was asked for is trained once, and has a line."""

import pytest
from commands import command


@pytest.mark.long
def test_a_variant_is_trained_once_and_has_a_line(tmp_path):
    options = ["--data-dir", "sample", "--output-dir", tmp_path, "--max-steps", "2", "--only", "q and v"]
    made = []
    for _ in range(2):
        result = command("-m", "tools.variants", *options)
        assert result.returncode == 0, result.stderr
        *_, row = result.stdout.splitlines()
        assert row.startswith("| q and v alone | 65,536 |")  # 4 layers, A [16, 256] and B [768, 16]
        made.append((row, (tmp_path / "q-and-v-alone" / "metrics.jsonl").stat().st_mtime_ns))
    assert made[0] == made[1]
