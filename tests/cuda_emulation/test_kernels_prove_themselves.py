"""CUDA's kernels are on, each where it has proved itself: on the emulated device, with faults planted in some."""

import json
import shutil
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest
from places import ROOT

from tests.cuda_emulation import home

pytestmark = [
    pytest.mark.cuda_emulation,
    pytest.mark.skipif(home.on_device(), reason="a fault of memory would take the device from what comes after"),
    pytest.mark.skipif(not home.installed(), reason=f"{home.WHEEL} is not installed: {home.INSTALL}"),
]
FAULTS = {  # the kernel: what is written in place of what, and what the line about it says
    "layer_norm": ("(squares) / width", "(squares) / (width - 1)", "a difference of "),  # off by one
    "gelu_new": ("x * (e / (e + 1.0f))", "x * (e / (e - e))", "NaN or infinite numbers in value 0"),
    "dropout": ("const {\n", "const {{\n", "it does not compile"),
    "cross_entropy": (
        "logits += row * vocab;",
        "logits += (row + (1L << 40)) * vocab;",
        "it ended the process with status 86",
    ),
}
INCLUDING = {"lora": FAULTS["dropout"][2], "decode_step": "NaN"}  # what contains a kernel with a fault has it, too
WORDS = {kernel: words for kernel, (_, _, words) in FAULTS.items()} | INCLUDING
WELL = ["attention", "adamw", "projection", "choose"]
OPERATORS = """
import json
import numpy as np
from gpt2_jittor.runtime import runtime
runtime.prepare("cuda")
from gpt2_jittor.ops import adamw, fused, prove
from gpt2_jittor.ops.activation import gelu_new
from gpt2_jittor.ops.attention import attention
from gpt2_jittor.ops.dropout import dropout, seeds
from gpt2_jittor.ops.head_loss import head_loss
from gpt2_jittor.ops.layer_norm import layer_norm
from gpt2_jittor.runtime.backend import jt

rng = np.random.default_rng(5)
x, y, weight = (jt.array(rng.standard_normal(shape).astype(np.float32)) for shape in ((6, 33), (2, 9, 36), (50, 33)))

def everything():
    seeds.restart(1, 0)
    new, *_ = adamw.adamw([x[0]], [x[1]], [x[2]], [x[3] * x[3]], x[4, :1], 1, 0.1, [0.1], (0.9, 0.99), 1e-8)
    values = [layer_norm(x, x[0], x[1], 1e-5), gelu_new(x), dropout(x, 0.5), *new,
              attention(y, jt.ones((2, 9), "int32"), 3, 0.5, 0.2), head_loss(x, weight, jt.array([3, 1, 4, 1, 5, 9]))]
    return [value.numpy() for value in values]

with fused.composed_only():
    expected = everything()
errors = [float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(everything(), expected)]
print(json.dumps({"on": [kernel for kernel in prove.OPERATORS if fused.enabled(kernel)], "error": max(errors)}))
"""


@dataclass
class Run:
    """What a process of its own said: which kernels it ran, by how much it was off at most, and its lines on stderr."""

    on: list[str]
    error: float
    lines: list[str]

    @property
    def checked(self) -> bool:
        return any(line.startswith("Checking the CUDA kernels on Emulated CUDA device (once;") for line in self.lines)

    @property
    def warnings(self) -> list[str]:
        return [line for line in self.lines if line.startswith("warning: ")]


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A copy of this project with the faults."""
    root = tmp_path_factory.mktemp("project")
    for name in ("common", "gpt2_jittor"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for kernel, (right, wrong, _) in FAULTS.items():
        path = source(root, kernel)
        assert right in path.read_text()
        path.write_text(path.read_text().replace(right, wrong, 1))
    with (root / "gpt2_jittor" / "ops" / "__init__.py").open("a") as file:
        file.write(f"# {uuid.uuid4()}\n")  # an earlier test's verdicts are on another source
    return root


def source(root: Path, kernel: str) -> Path:
    return root / "gpt2_jittor" / "ops" / "kernels" / "cuda" / f"{kernel}.cuh"


def verdicts() -> set[Path]:
    return set(home.cache().rglob("cuda-kernels-*.json"))


def run(root: Path, **variables: str) -> Run:
    given = {name: value for name, value in home.environment().items() if name != "GPT2_JITTOR_CUDA_KERNELS"}
    done = subprocess.run(
        [sys.executable, "-c", OPERATORS],
        cwd=root,
        env=given | {"PYTHONPATH": str(root)} | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout, done.stderr)
    return Run(**json.loads(done.stdout.splitlines()[-1]), lines=done.stderr.splitlines())


def assert_broken_ones_are_replaced(found: Run) -> None:
    assert found.on == WELL
    assert found.error < 1e-5  # sums in another order
    for kernel, words in WORDS.items():
        (line,) = (line for line in found.warnings if f" {kernel} " in line)
        assert line.startswith(f"warning: the CUDA kernel {kernel} failed its check on Emulated CUDA device: {words}")
        assert "please report it" in line
    assert len(found.warnings) == len(WORDS)


@pytest.fixture(scope="module")
def first(project) -> Run:
    """The first run of the project with the faults."""
    return run(project)


def test_broken_kernels_are_replaced_each_with_a_line(first):
    assert first.checked
    assert_broken_ones_are_replaced(first)


def test_the_verdicts_are_kept(project, first):
    before = verdicts()
    second = run(project)
    assert not second.checked and verdicts() == before
    assert_broken_ones_are_replaced(second)


def test_turned_off_nothing_is_checked_and_another_source_is(project, first, tmp_path):
    mended = tmp_path / "mended"
    shutil.copytree(project, mended, ignore=shutil.ignore_patterns("__pycache__"))
    for kernel in FAULTS:
        shutil.copy(source(ROOT, kernel), source(mended, kernel))
    before = verdicts()
    off = run(mended, GPT2_JITTOR_CUDA_KERNELS="0")
    assert (off.on, off.checked, off.warnings, verdicts()) == ([], False, [], before)
    assert off.error < 1e-5
    on = run(mended)
    assert on.checked and len(verdicts() - before) == 1
    assert sorted(on.on) == sorted([*WORDS, *WELL]) and 0 < on.error < 1e-5
    assert not on.warnings
