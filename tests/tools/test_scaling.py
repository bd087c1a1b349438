"""The costs on paper of tools/scaling beside values worked by hand and a real adapter, and what Slurm's script refuses.

`tests/faults/test_mpi.py` measures, and runs that script.
"""

import re
import shutil
import subprocess

import numpy as np
import pytest
from commands import assert_one_line_error, command
from places import ROOT

from common.errors import UserError
from tools.scaling import __main__ as scaling
from tools.scaling import model, report
from tools.scaling.model import ADAPTERS, Link

SBATCH = ROOT / "tools" / "slurm" / "train.sbatch"
LINK = Link("made up", 1e-3, 1e6)  # a millisecond, a microsecond a byte


@pytest.mark.parametrize(
    "size, processes, milliseconds",
    [
        (4, 2, 1.004),  # one message of 4 bytes
        (4, 8, 3 * 1.004),  # three, to partners 1, 2 and 4 away
        (1000, 5, 3 * 2),  # as many as for 8
        (20_000, 2, 2 * 11),  # halves there, and sums back
        (80_000, 4, 6 * 21),  # 2 x 3 messages of a quarter
    ],
)
def test_a_sum_takes_the_messages_of_its_algorithm(size, processes, milliseconds):
    assert model.sum_seconds(size, processes, LINK) == pytest.approx(milliseconds / 1e3)


def test_an_adapter_has_the_shapes_and_the_number_of_parameters_of_a_real_one():
    import lora
    from gpt2_jittor import GPT2LMHeadModel

    nano = lora.inject(
        GPT2LMHeadModel.from_pretrained("nano"), lora.LoraConfig(r=8, target_modules=["c_attn", "c_proj", "c_fc"])
    )
    assert ADAPTERS[0].parameters == lora.count(nano)[0] == 131_072
    assert ADAPTERS[0].model_parameters == lora.count(nano)[1]
    assert sorted(ADAPTERS[0].shapes) == sorted(tuple(v.shape) for _, v in lora.trainable(nano))
    assert [a.parameters for a in ADAPTERS] == [16 * 8 * a.width * a.blocks for a in ADAPTERS]
    for adapter in ADAPTERS[1:]:
        width, tables = adapter.width, (50257 + 1024) * adapter.width
        block = 12 * width**2 + 13 * width
        assert adapter.model_parameters == tables + adapter.blocks * block + 2 * width


def test_efficiency_and_the_fewest_tokens_agree(rng):
    waiting, a_token = rng.uniform(1e-3, 1, 2)
    tokens = model.least_tokens(waiting, a_token)
    assert model.efficiency(tokens * a_token, waiting) >= 0.8 > model.efficiency((tokens - 1) * a_token, waiting)


@pytest.mark.parametrize("processes", [2, 4])
def test_the_link_is_found_again_from_its_own_times(rng, processes):
    link = Link("", *rng.uniform([1e-6, 1e8], [1e-3, 1e10]))
    sizes = [4096, *(int(size) for size in rng.integers(20_000, 1e8, 5))]
    found = model.fitted({size: model.sum_seconds(size, processes, link) for size in sizes}, processes)
    np.testing.assert_allclose([found.latency, found.bandwidth], [link.latency, link.bandwidth], rtol=1e-6)


def test_what_is_measured_stands_in_the_tables():
    adapter = ADAPTERS[0]
    size = adapter.bytes_summed - 4
    result = {"counted": adapter.bytes_summed, "updates": {"nano": 0.005}}
    result["sums"] = {4096: 1e-4, size: 0.001, 4 * size: 0.004}
    table, copying = report.measured_table({(2, "memory"): result, (4, "TCP"): result})
    assert copying == pytest.approx(0.004 / size)
    assert "| nano | 131,072 | 524,296 | 1.00; 5.00 | 1.00; 5.00 |" in table
    assert f"{adapter.bytes_summed} bytes" in table
    copies = 524_296 * 1e-8
    rows = [line for line in report.paper_tables(1e-8).splitlines() if line.startswith("| nano")]
    assert len(rows) == 3 and rows[0].endswith(f"| {1e3 * copies:.2f} |")
    ten = 1e3 * model.link_seconds(adapter, 64, model.LINKS[0])
    assert f"{ten:.2f}" in rows[0]
    share = 0.0859  # seconds of 1,024 tokens: 1.983 x 5,387,776 / 124,439,808
    assert f"{share / (share + copies + ten / 1e3):.1%}" in rows[1]


def test_the_tables_of_the_page_are_those_that_the_command_prints():
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    (copying,) = re.findall(r"copies on the host: ([\d.]+) ns a byte", page)
    assert float(copying) == report.COPYING * 1e9
    for line in report.paper_tables().splitlines():
        assert not line.startswith("|") or line in page, line


@pytest.mark.parametrize(
    "options, words",
    [
        (["--processes", 1], ["--processes", "2 or more"]),
        (["--repeats", 0], ["--repeats", "at least 1"]),
        (["--adapters", "gpt3"], ["--adapters", "gpt3"]),
    ],
)
def test_a_wrong_option_is_one_line(options, words):
    assert_one_line_error(command("-m", "tools.scaling", *options), *words)


def test_processes_that_fail_are_told_with_what_they_said(tmp_path, monkeypatch):
    mpirun = tmp_path / "mpirun"
    mpirun.write_text("#!/bin/sh\necho 'no slots' >&2\nexit 3\n")
    mpirun.chmod(0o755)
    monkeypatch.setattr("sys.argv", ["scaling"])
    with pytest.raises(UserError, match="2 processes over TCP failed: no slots"):
        scaling.measure(str(mpirun), 2, "TCP", scaling.parse())


def run_sbatch(*options, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", SBATCH, *options], capture_output=True, text=True, check=False, cwd=ROOT, timeout=60, env=environment
    )


def test_slurms_script_is_sound_and_refuses_a_run_without_a_folder():
    assert subprocess.run(["bash", "-n", SBATCH], check=False).returncode == 0
    if shutil.which("shellcheck"):
        assert subprocess.run(["shellcheck", SBATCH], check=False).returncode == 0
    for options in ([], ["--task", "text"], ["--output-dir"]):
        ended = run_sbatch(*options, SLURM_NTASKS="2", PATH="/usr/bin:/bin")
        assert (ended.returncode, ended.stderr.count("\n")) == (2, 1) and "--output-dir" in ended.stderr
    ended = run_sbatch("--output-dir", "runs/x", PATH="/usr/bin:/bin")
    assert ended.returncode != 0 and "submit this with sbatch" in ended.stderr
