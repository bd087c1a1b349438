"""Jittor's CUDA path on the emulated device, or a real one: the project's comparisons with PyTorch, and its commands.

Each runs in processes of its own that use CUDA from start to end. The references and bounds stand in the tests that
are run again: 1e-4 in logits, 1e-5 in the loss, 1e-3 in each gradient, 1e-3 in the loss of each of 50 updates.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tiny
from places import ROOT

from tests.cuda_emulation import home

pytestmark = pytest.mark.cuda_emulation
AGAIN = {  # what is compared: where, and which of the tests there
    "logits and gradients, padded; the cache; greedy text": (
        ["tests/model/test_lm.py"],
        "padding_on_either_side or feeding_tokens or greedy_text",
    ),
    "LoRA: gradients, files, merged models": (
        ["tests/lora/test_lora.py"],
        "each_gradient and name or adapter_from_peft_gives and name or merging_keeps or merged_model_is_saved",
    ),
    "50 updates": (["tests/training/test_trainer.py"], "50_steps"),
    "classification": (
        ["tests/model/test_classifier.py", "tests/lora/test_classification.py"],
        "logits_are or each_gradient or merged",
    ),
    "a token in one operator": (["tests/ops/test_decode_step.py"], ""),
    "evaluation": (["tests/generation/test_scoring.py"], "alone or mean_over"),
    "generation": (
        [f"tests/generation/test_{name}.py" for name in ("batches", "running")],
        "greedy_batch or sampler_draws or selected_rows or takes_the_row",
    ),
    "dropout": (["tests/ops/test_ops.py"], "dropout or dropped"),
    "kernels of our own": (
        [
            *(f"tests/ops/test_{name}.py" for name in ("ops", "linear", "head_loss", "choose")),
            "tests/training/test_parts.py",
        ],
        "cuda or choose",
    ),
    # a real device counts nothing, and forgives a missing barrier when it happens to
    "masks, launches, kernels": (["tests/cuda_emulation/on_device.py"], "masks" if home.on_device() else ""),
}

COMPOSED = ("logits and gradients, padded; the cache; greedy text", "50 updates")  # which are run without kernels, too


@pytest.fixture(scope="module")
def environment():
    return home.environment()


def run(arguments: list, environment: dict, **more: str) -> subprocess.CompletedProcess:
    """`python <arguments>` in the project's folder."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=environment | more,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(("what", "kernels"), [(what, "1") for what in AGAIN] + [(what, "0") for what in COMPOSED])
def test_what_agrees_with_pytorch_on_the_cpu_agrees_on_the_device(environment, tmp_path, what, kernels):
    files, chosen = AGAIN[what]
    report = tmp_path / "report"
    arguments = [
        "-m",
        "pytest",
        "-rs",
        "-p",
        "no:cacheprovider",
        f"--basetemp={tmp_path / 'tests'}",
        *files,
        "-k",
        chosen,
    ]
    done = run(arguments, environment, CUDA_EMULATION_REPORT=str(report), GPT2_JITTOR_CUDA_KERNELS=kernels)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout and " skipped" not in done.stdout
    if not home.on_device():
        assert sum(json.loads(line)["launches"] for line in report.read_text().splitlines()) > 50


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A model with dropout and dialogues of uneven length."""
    root = tmp_path_factory.mktemp("world")
    tiny.model_folder(root / "model", seed=1, dropout=0.1)
    data = tiny.dialogue_folder(root / "data", seed=2)
    (data / "test").mkdir()
    (data / "test" / "dialogues_test.txt").write_bytes((data / "validation" / "dialogues_validation.txt").read_bytes())
    return root


def training(world, name: str, *more) -> list:
    given = ["train.py", "--task", "dailydialog", "--model", world / "model", "--data-dir", world / "data"]
    given += ["--output-dir", world / name, "--batch-size", 4, "--max-length", 60, "--lora-r", 2, "--lora-dropout", 0.1]
    return [*given, "--learning-rate", 1e-2, "--gradient-accumulation", 2, "--schedule", "constant", *more]


def losses(run_dir) -> list[float]:
    return [json.loads(line)["loss"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(world, environment):
    """The folder of a run of 10 steps on the device, with dropout."""
    done = run(training(world, "device", "--device", "cuda", "--max-steps", 10), environment)
    assert done.returncode == 0, done.stderr
    assert " on cuda: " in done.stdout
    return world / "device"


def test_ten_steps_with_dropout_have_the_losses_of_the_cpu(world, trained):
    done = run(training(world, "cpu", "--device", "cpu", "--max-steps", 10), dict(os.environ))
    assert done.returncode == 0, done.stderr
    found, expected = losses(trained), losses(world / "cpu")
    assert len(found) == len(expected) > 10  # the validations, too
    print(f"largest difference: {np.max(np.abs(np.array(found) / expected - 1)):.1e}")
    np.testing.assert_allclose(found, expected, rtol=1e-4)  # sums in another order, over the steps


def test_a_run_that_is_stopped_and_resumed_on_the_device_ends_the_same(world, trained, environment):
    short = training(world, "resumed", "--device", "cuda", "--save-every", 2)
    assert run([*short, "--max-steps", 4], environment).returncode == 0
    done = run(["train.py", "--output-dir", world / "resumed", "--resume", "--max-steps", 10], environment)
    assert done.returncode == 0 and "resuming from" in done.stdout, done.stderr
    assert losses(world / "resumed")[-1] == pytest.approx(losses(trained)[-1], rel=1e-4)


@pytest.mark.parametrize(
    "options",
    [["--greedy"], ["--seed", 3, "--top-k", 20], ["--num-beams", 3]],
    ids=["greedy", "sampled", "beams"],
)
def test_generated_text_is_the_cpus(trained, environment, options):
    arguments = ["generate.py", "--adapter", trained, "--prompt", "the warm tea", "--max-new-tokens", 20, *options]
    found = run([*arguments, "--device", "cuda"], environment)
    expected = run([*arguments, "--device", "cpu"], dict(os.environ))
    assert (found.returncode, expected.returncode) == (0, 0), found.stderr + expected.stderr
    assert found.stdout == expected.stdout


def test_evaluation_has_the_cpus_figures(trained, environment):
    arguments = ["evaluate.py", "--adapter", trained, "--json"]
    found = run([*arguments, "--device", "cuda"], environment)
    expected = run([*arguments, "--device", "cpu"], dict(os.environ))
    assert (found.returncode, expected.returncode) == (0, 0), found.stderr + expected.stderr
    found, expected = json.loads(found.stdout), json.loads(expected.stdout)
    assert_alike(found, expected)


def assert_alike(found, expected) -> None:
    """The same keys, texts and counts; floats, but for the clock's, within 1e-4."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected.keys() - {"seconds"}:
            assert_alike(found[key], expected[key])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            assert_alike(a, b)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-4)
    else:
        assert found == expected


CORE = """
import sys
from gpt2_jittor.runtime import runtime
device = runtime.prepare(sys.argv[1])
compiled = runtime.core_is_compiled()
from gpt2_jittor.runtime.backend import jt
import jittor_core
doubled = (jt.array([1.5, 2.5]) * 2).numpy().tolist()
print(device, jt.flags.use_cuda, hasattr(jt.flags, "cuda_archs"), compiled, doubled, jittor_core.__file__)
"""


def test_the_cpu_and_the_device_take_turns_in_one_home(environment):
    """Each finds its own core, whichever was compiled before."""
    folders = {}
    for turn, device in enumerate(("cpu", "cuda", "cpu", "cuda")):
        done = run(["-c", CORE, device], environment)
        assert done.returncode == 0, done.stderr
        said, core = done.stdout.strip().rsplit(" ", 1)
        on_cuda = device == "cuda"
        assert said.split()[:3] == [device, str(int(on_cuda)), str(on_cuda)] and said.endswith("[3.0, 5.0]")
        assert turn < 2 or said.split()[3] == "True"  # and says that it is there
        assert folders.setdefault(device, core) == core
    assert folders["cpu"] != folders["cuda"]
