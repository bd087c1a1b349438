"""What decides a run's result, changed between a checkpoint and its --resume, wherever it was changed."""

import dataclasses
import json
import shutil

import pytest
import tiny
import yaml

from common.errors import UserError
from training.arguments import FIELDS, RESUMABLE, TrainingArguments, resolve_resumed
from training.checkpoint import write_manifest
from training.fingerprint import instructions
from training.setup import build_trainer, read_inputs
from training.trainer import Trainer

# every argument that decides the result: another value in arguments.yaml, and what is said of it
OTHER = {
    "task": ("squad", "data"),
    "model": ("nano", "the base model's weights or its config.json are others"),
    "columns": (["prompt=a"], "columns says something of your own data"),
    "labels": (["a", "b"], "labels says something of your own data"),
    "validation_share": (0.5, "validation_share says something of your own data"),
    "tuning": ("full", "tuning was lora and is full now"),
    "lora_r": (3, "lora_r was 2 and is 3 now"),
    "lora_alpha": (8.0, "lora_alpha was 16.0 and is 8.0 now"),
    "lora_dropout": (0.5, "lora_dropout was 0.05 and is 0.5 now"),
    "lora_targets": (["c_attn"], "lora_targets was c_attn c_proj c_fc and is c_attn now"),
    "lora_bias": ("all", "lora_bias was none and is all now"),
    "lora_modules_to_save": (["lm_head"], "lora_modules_to_save was unset and is lm_head now"),
    "lora_rslora": (True, "lora_rslora was False and is True now"),
    "lora_exclude": (["c_fc"], "lora_exclude was unset and is c_fc now"),
    "lora_layers": ([1], "lora_layers was unset and is 1 now"),
    "lora_rank_pattern": (["c_attn=4"], "lora_rank_pattern was unset and is c_attn=4 now"),
    "lora_alpha_pattern": (["c_attn=4"], "lora_alpha_pattern was unset and is c_attn=4 now"),
    "lora_dora": (True, "lora_dora was False and is True now"),
    "lora_b_bias": (True, "lora_b_bias was False and is True now"),
    "lora_init": ("gaussian", "lora_init was default and is gaussian now"),
    "lora_plus_ratio": (4.0, "lora_plus_ratio was 1.0 and is 4.0 now"),
    "added_tokens": (["<USER>"], "added_tokens was unset and is <USER> now"),
    "head_dropout": (0.5, "head_dropout was 0.0 and is 0.5 now"),
    "label_smoothing": (0.1, "label_smoothing was 0.0 and is 0.1 now"),
    "batch_size": (5, "batch_size was 4 and is 5 now"),
    "gradient_accumulation": (2, "gradient_accumulation was 1 and is 2 now"),
    "learning_rate": (0.02, "learning_rate was 0.01 and is 0.02 now"),
    "schedule": ("cosine", "schedule was linear and is cosine now"),
    "warmup_steps": (2, "warmup_steps was 1 and is 2 now"),
    "weight_decay": (0.0, "weight_decay was 0.01 and is 0.0 now"),
    "max_grad_norm": (2.0, "max_grad_norm was 1.0 and is 2.0 now"),
    "max_length": (40, "max_length was 60 and is 40 now"),
    "seed": (1, "seed was 0 and is 1 now"),
    "eval_every": (2, "eval_every was 1 and is 2 now"),
    "eval_limit": (3, "eval_limit was 7 and is 3 now"),
    "skip_nonfinite": (True, "skip_nonfinite was False and is True now"),
    "precision": ("bf16", "bf16"),
    "base": ("int8", "base was fp32 and is int8 now; int8_threshold was unset and is 6.0 now"),
    "int8_threshold": (3.0, "int8_threshold is of base int8"),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tiny.still_world(tmp_path_factory.mktemp("world"))
    lengths = {"max_steps": 2, "warmup_steps": 1, "eval_every": 1, "patience": 5, "max_length": 60}
    places = {name: str(root / name) for name in ("model",)} | {"data_dir": str(root / "data")}
    given = TrainingArguments(
        output_dir=str(root / "run"), lora_r=2, batch_size=4, learning_rate=1e-2, **places, **lengths
    )
    inputs = read_inputs(given, say=lambda text: None)
    inputs.arguments.run_dir.mkdir()
    inputs.arguments.save(root / "run" / "arguments.yaml")
    build_trainer(inputs).run()
    return root


@pytest.fixture
def run(world, tmp_path):
    """A copy of the run that can be edited."""
    return shutil.copytree(world / "run", tmp_path / "run")


def edit(run, **values) -> None:
    path = run / "arguments.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | values))


def resume(run, **typed) -> Trainer:
    given, _ = resolve_resumed(typed, run)
    inputs = read_inputs(given, say=lambda text: None)
    return build_trainer(inputs, resume=True)


def test_the_table_holds_every_argument_that_decides_the_result():
    assert OTHER.keys() == FIELDS.keys() - RESUMABLE


@pytest.mark.parametrize("name", OTHER)
def test_an_argument_that_was_edited_is_refused_with_both_values(run, name):
    value, words = OTHER[name]
    edit(run, **{name: value})
    with pytest.raises(UserError, match=words) as caught:
        resume(run)
    assert "\n" not in str(caught.value)


def test_an_argument_that_was_edited_and_is_typed_alike_is_refused_too(run):
    edit(run, seed=3)
    with pytest.raises(UserError, match="checkpoint-2 is not of this run: seed was 0 and is 3 now: put arguments.yaml"):
        resume(run, seed=3)


def test_all_that_was_edited_is_named_together(run):
    edit(run, seed=3, schedule="constant")
    with pytest.raises(UserError, match="schedule was linear and is constant now; seed was 0 and is 3 now: put"):
        resume(run)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"max_steps": 1}, "it was to make 2 steps and would make 1 now, fewer"),
        ({"max_steps": None, "epochs": 0.1}, "it was to make 2 steps and would make 1 now, fewer"),
        ({"patience": 4}, "patience was 5 and is 4 now, less"),
    ],
)
def test_a_run_that_was_edited_to_be_shorter_is_refused(run, values, words):
    edit(run, **values)
    with pytest.raises(UserError, match=words):
        resume(run)


@pytest.mark.parametrize(
    "values",
    [{}, {"max_steps": 3}, {"patience": None}, {"patience": 9, "save_every": 7, "device": "cpu"}, {"data_dir": 0}],
)
def test_what_may_change_may_be_edited(run, world, tmp_path, values):
    if "data_dir" in values:  # the same data elsewhere
        values = {"data_dir": str(shutil.copytree(world / "data", tmp_path / "moved"))}
    edit(run, **values)
    found = resume(run)
    assert (found.progress.step, found.resumed_from, found.notes) == (2, run / "checkpoint-2", [])


def change_identity(run, change) -> None:
    path = run / "checkpoint-2" / "identity.json"
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told))
    (path.parent / "manifest.json").unlink()
    write_manifest(path.parent)


def test_a_checkpoint_of_an_older_version_is_refused_as_that(run):
    def age(told):
        for name in ("arguments", "steps", "patience", "instructions"):
            del told[name]
        told["base"] = "5" * 64  # of another form, and so never equal

    change_identity(run, age)
    with pytest.raises(UserError, match=f"^{run / 'checkpoint-2'} was written by an earlier version") as caught:
        resume(run)
    assert "base model" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("variable", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
def test_other_instructions_at_resume_are_said_in_one_line_and_allowed(run, monkeypatch, variable):
    before = instructions()
    monkeypatch.setenv(variable, "sse41")
    (note,) = resume(run).notes
    assert f"was made on {before}, this is {before}, MAX_CPU_ISA SSE41: sums" in note and "\n" not in note


def test_another_cpu_is_another_set_of_instructions(run):
    change_identity(run, lambda told: told.update(instructions="Another CPU (avx512f)"))
    (note,) = resume(run).notes
    assert f"was made on Another CPU (avx512f), this is {instructions()}: sums" in note


@pytest.mark.parametrize("value", ["ALL", "default", ""])
def test_a_cap_that_caps_nothing_is_none(monkeypatch, value):
    before = instructions()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", value)
    assert instructions() == before


def test_the_identity_holds_json_alone(world):
    told = json.loads((world / "run" / "checkpoint-2" / "identity.json").read_text())
    arguments = dataclasses.asdict(TrainingArguments(**yaml.safe_load((world / "run" / "arguments.yaml").read_text())))
    assert told["arguments"] == {name: arguments[name] for name in OTHER if name not in ("precision", "model")}
