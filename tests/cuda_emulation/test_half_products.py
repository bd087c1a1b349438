"""float16 and bfloat16 on the emulated device, beside the CPU, which rounds in the same places."""

import json
import subprocess
import sys
from pathlib import Path

import halves
import numpy as np
import pytest
from places import ROOT
from runs import arguments, build_world, run

from gpt2_jittor.ops import fused
from tests.cuda_emulation import half_products, home

EPSILON = {"fp32": 1e-5} | halves.EPSILON  # float32 sums in another order

pytestmark = [
    pytest.mark.cuda_emulation,
    pytest.mark.skipif(not home.installed(), reason=f"{home.WHEEL} is not installed: {home.INSTALL}"),
]


def on_device(*command) -> str:
    """What a command of Python's prints there."""
    result = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env=home.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return build_world(tmp_path_factory.mktemp("device"))


@pytest.fixture(scope="module")
def both(world) -> tuple[dict, dict]:
    """What `half_products` computes on the device, and on the CPU by the composed operators."""
    on_device("-m", "tests.cuda_emulation.half_products", world / "dropping", world / "found.npz")
    with fused.composed_only():
        return dict(np.load(world / "found.npz")), half_products.compute(str(world / "dropping"))


@pytest.mark.parametrize("precision", EPSILON)
def test_products_and_their_gradients_are_those_of_the_cpu(both, precision):
    device, cpu = both
    names = [name for name in cpu if name.startswith(f"{precision} product")]
    assert len(names) == 12
    for name in names:
        # sums in another order; where they are then rounded, a few to the other side
        np.testing.assert_allclose(device[name], cpu[name], rtol=EPSILON[precision], atol=1e-5, err_msg=name)
        assert (device[name] == cpu[name]).mean() > 0.9 or precision == "fp32"


@pytest.mark.parametrize("precision", EPSILON)
def test_loss_gradients_and_decoded_logits_are_those_of_the_cpu(both, precision):
    device, cpu = both
    names = [name for name in cpu if name.startswith(precision) and "product" not in name]
    assert len(names) == 18
    for name in names:
        error = np.linalg.norm(device[name] - cpu[name]) / np.linalg.norm(cpu[name])
        # where a sum is rounded to the other side, products further on see it; float32 has 13 sums behind each other
        assert error < 4 * EPSILON[precision], name


@pytest.mark.parametrize("base", half_products.BASES)
def test_a_base_of_fewer_bits_has_the_loss_and_gradients_of_the_cpu(both, base):
    device, cpu = both
    names = [name for name in cpu if name.startswith(f"base {base}")]
    assert len(names) == 18
    for name in names:
        error = np.linalg.norm(device[name] - cpu[name]) / np.linalg.norm(cpu[name])
        # what int8 rounds to the other side, as a sum came out otherwise, is off by 1/127 of its row's largest
        assert error < (1e-2 if base == "int8" else 4 * EPSILON["fp32"]), name


def test_float32_is_not_rounded_on_the_device(both):
    """No TF32, no half type: a product in float32 is as exact as on the CPU, and one in a half type is not."""
    device, cpu = both
    exact = cpu["fp32 product 0 False y"]
    assert np.abs(device["fp32 product 0 False y"] - exact).max() < 1e-5
    assert all(np.abs(device[f"{half} product 0 False y"] - exact).max() > 1e-4 for half in ("fp16", "bf16"))


@pytest.fixture(scope="module")
def trained(world) -> Path:
    """A run of `train.py` in float16 on the device, from end to end: dropout, loss scale, validation, checkpoint."""
    given = arguments(world, world / "run", max_steps=4, eval_every=4, precision="fp16")
    given.save(world / "recipe.yaml")
    on_device("train.py", "--config", world / "recipe.yaml", "--device", "cuda")
    return world / "run"


def metrics(run_dir) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_a_run_in_float16_is_that_of_the_cpu(world, trained, tmp_path):
    with fused.composed_only():
        run(arguments(world, tmp_path, max_steps=4, eval_every=4, precision="fp16"))
    found, expected = metrics(trained), metrics(tmp_path)
    assert [(line["split"], line["step"]) for line in found] == [(line["split"], line["step"]) for line in expected]
    for mine, other in zip(found, expected, strict=True):
        assert mine["loss"] == pytest.approx(other["loss"], rel=EPSILON["fp16"])
        assert mine.get("loss_scale") == other.get("loss_scale")
    identity = json.loads((trained / "checkpoint-4" / "identity.json").read_text())
    assert (identity["device"], identity["precision"]) == ("cuda", "fp16")


def test_a_run_is_measured_and_answers_in_bf16(trained):
    how = ("--adapter", trained, "--precision", "bf16", "--device", "cuda", "--json")
    measured = json.loads(on_device("evaluate.py", *how, "--split", "validation", "--loss-only"))
    assert measured["precision"] == "bf16"
    last = metrics(trained)[-1]  # of the last validation, in float16
    assert measured["adapter"]["loss"] == pytest.approx(last["loss"], rel=EPSILON["bf16"])
    answer = json.loads(
        on_device("generate.py", *how, "--prompt", "do you like tea ?", "--greedy", "--max-new-tokens", 4)
    )
    assert answer["tokens"] <= 4 and isinstance(answer["answer"], str)
