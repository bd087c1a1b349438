"""Runs on a base of fewer bits: what is refused at the door, steps beside float32's, and taking them up again."""

import shutil

import numpy as np
import pytest
import safetensors.numpy
import yaml
from adapters import assert_refused
from commands import assert_one_line_error, command, train
from runs import arguments, build_world, metrics, prepare, run

from gpt2_jittor.checkpoint.locate import NANO
from lora.merging import plan, write
from training.arguments import TrainingArguments, over, resolve, resolve_resumed
from training.setup import read_inputs


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return build_world(tmp_path_factory.mktemp("bases"))


# --- at the door


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"base": "int8", "tuning": "full"}, ["--base int8", "--tuning lora"]),
        ({"base": "bf16", "precision": "bf16"}, ["--base bf16", "--precision fp32", "itself"]),
        ({"base": "int8", "precision": "fp16"}, ["--base int8", "--precision fp32"]),
        ({"int8_threshold": 6.0}, ["--int8-threshold", "--base int8"]),
        ({"base": "bf16", "int8_threshold": 6.0}, ["--int8-threshold", "--base int8"]),
        ({"base": "int8", "int8_threshold": -1.0}, ["--int8-threshold", "at least 0", "-1"]),
        ({"base": "int8", "lora_init": "pissa"}, ["--lora-init pissa", "--base int8"]),
        ({"base": "fp16", "lora_init": "olora"}, ["--lora-init olora", "--base fp16"]),
    ],
)
def test_what_has_no_meaning_together_is_refused_in_one_line(given, words):
    assert_refused(lambda: TrainingArguments(**given), *words)


@pytest.mark.parametrize("whole", ["lm_head", "wte", "h.0.attn.c_proj"])
def test_a_layer_that_is_kept_in_fewer_bits_is_not_trained_whole(world, tmp_path, whole):
    given = arguments(world, tmp_path, base="int8", lora_modules_to_save=[whole], lora_targets=["c_attn"])
    words = ("--lora-modules-to-save", whole, "--base int8")
    assert_refused(lambda: read_inputs(given, say=lambda text: None), *words)


def test_the_command_line_refuses_a_base_of_no_such_kind_and_a_threshold_without_int8(world, tmp_path):
    here = train(tmp_path, world / "dropping", world / "data")
    assert_one_line_error(command(*here, "--base", "int4"), "--base", "int8", "int4")
    assert_one_line_error(command(*here, "--int8-threshold", 3), "--int8-threshold", "--base int8")


def test_another_base_on_the_command_line_takes_the_recipes_threshold_with_it():
    recipe = {"base": "int8", "int8_threshold": 5.0}
    assert resolve(over(recipe, {"base": "fp32"})).int8_threshold is None
    assert resolve(over(recipe, {"base": "int8"})).int8_threshold == 5.0


def test_int8s_threshold_is_6_where_nothing_else_is_said(world, tmp_path):
    found = [
        read_inputs(arguments(world, tmp_path, **given), say=lambda text: None).arguments.int8_threshold
        for given in ({"base": "int8"}, {"base": "int8", "int8_threshold": 0.0}, {"base": "bf16"}, {})
    ]
    assert found == [6.0, 0.0, None, None]


# --- runs


def planted(folder, rng, columns: int = 2, factor: int = 60):
    """The embedded model with outliers, as large models have them: some columns of what the norms give are `factor`
    times as large, and what they are multiplied by is as much smaller, so that it computes the same."""
    shutil.copytree(NANO, folder)
    path = folder / "model.safetensors"
    tensors = {name: np.array(value, np.float32) for name, value in safetensors.numpy.load_file(path).items()}
    for name in [name for name in tensors if name.endswith(("ln_1.weight", "ln_2.weight"))]:
        of_norm = name.removesuffix(".weight")
        projection = of_norm.replace("ln_1", "attn.c_attn").replace("ln_2", "mlp.c_fc")
        some = rng.permutation(len(tensors[name]))[:columns]
        for part in ("weight", "bias"):
            tensors[f"{of_norm}.{part}"][some] *= factor
        tensors[f"{projection}.weight"][some] /= factor
    safetensors.numpy.save_file(tensors, path, {"format": "pt"})
    return folder


def losses(model, run_dir, steps: int, **settings) -> np.ndarray:
    given = TrainingArguments(
        model=str(model),
        data_dir="sample",
        output_dir=str(run_dir),
        max_steps=steps,
        eval_every=steps,
        eval_limit=4,
        batch_size=8,
        max_length=48,
        learning_rate=2e-3,
        **settings,
    )
    run(given)
    return np.array([record["loss"] for record in metrics(run_dir)])


@pytest.mark.parametrize("steps", [12, pytest.param(50, marks=pytest.mark.long)])
def test_steps_over_planted_outliers_are_those_in_float32_to_a_hundredth(tmp_path, rng, steps):
    model = planted(tmp_path / "model", rng)
    float32, int8, without = (
        losses(model, tmp_path / name, steps, **given)
        for name, given in {
            "float32": {},
            "int8": {"base": "int8"},
            "without": {"base": "int8", "int8_threshold": 0.0},
        }.items()
    )
    assert np.abs(int8 / float32 - 1).max() < 0.01
    # without the threshold an outlier takes the digits of its row
    assert np.abs(without / float32 - 1).mean() > 3 * np.abs(int8 / float32 - 1).mean()


@pytest.mark.parametrize("base", ["int8", pytest.param("bf16", marks=pytest.mark.long)])
def test_a_run_that_was_taken_up_again_ends_with_the_same_bytes(world, tmp_path, base):
    settings = {"base": base, "max_steps": 4, "eval_every": 2, "save_every": 2, "gradient_checkpointing": True}
    run(arguments(world, tmp_path / "whole", **settings))
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoint-4")  # as if it had been killed before that
    resumed = run(arguments(world, tmp_path / "cut", **settings), resume=True)
    assert resumed.resumed_from.name == "checkpoint-2"
    for name in ("adapter_model.safetensors", "optimizer.safetensors"):
        one, other = ((tmp_path / folder / "checkpoint-4" / name).read_bytes() for folder in ("whole", "cut"))
        assert one == other, name


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    """The folder of a short run on an int8 base."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    given = arguments(world, folder, base="int8", max_steps=1)
    run(given)
    read_inputs(given, say=lambda text: None).arguments.save(folder / "arguments.yaml")
    return folder


def test_a_run_goes_on_with_the_base_it_had_or_not_at_all(world, finished):
    words = ("--resume", "leave out --base (was int8)")
    assert_refused(lambda: resolve_resumed({"base": "fp32"}, finished), *words)
    assert_refused(lambda: resolve_resumed({"int8_threshold": 0.0}, finished), "--int8-threshold (was 6.0)")
    # and where it is not the command that says so
    other = arguments(world, finished, max_steps=2, eval_every=1, eval_limit=7)
    assert_refused(lambda: prepare(other, resume=True), "--base was int8 and is fp32 now")


def test_the_base_stands_in_the_runs_arguments_and_not_in_the_adapter(finished):
    assert yaml.safe_load((finished / "arguments.yaml").read_text())["base"] == "int8"
    assert "int8" not in (finished / "adapter_config.json").read_text()


def test_the_adapter_is_merged_into_the_original_float32_weights(world, finished, tmp_path):
    write(plan(finished), tmp_path / "merged")
    found = safetensors.numpy.load_file(tmp_path / "merged" / "model.safetensors")
    originals = safetensors.numpy.load_file(world / "dropping" / "model.safetensors")
    tensors = safetensors.numpy.load_file(finished / "adapter_model.safetensors")
    name = "transformer.h.0.attn.c_attn"
    a, b = (tensors[f"base_model.model.{name}.lora_{kind}.weight"].astype(np.float64) for kind in "AB")
    np.testing.assert_allclose(found[f"{name}.weight"], originals[f"{name}.weight"] + 16 / 3 * (b @ a).T, atol=1e-6)
    np.testing.assert_array_equal(found["transformer.wte.weight"], originals["transformer.wte.weight"])
