"""The commands as a user types them: what they print, what they leave behind, how they end."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import safetensors.numpy
import tiny
import yaml
from commands import PNG, assert_one_line_error, command, train
from places import ROOT


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tiny model, tiny dialogues, and a run that was trained on them with LoRA."""
    root = tmp_path_factory.mktemp("commands")
    model = tiny.model_folder(root / "model", seed=1)
    data = tiny.dialogue_folder(root / "data", seed=2)
    (data / "test").mkdir()
    (data / "test" / "dialogues_test.txt").write_bytes((data / "validation" / "dialogues_validation.txt").read_bytes())
    result = command(*train(root / "run", model, data, "--max-steps", 12, "--lora-r", 2, "--eval-every", 6))
    assert result.returncode == 0, result.stderr
    return {"root": root, "model": model, "data": data, "run": root / "run", "training": result}


def test_training_leaves_an_adapter_its_arguments_its_metrics_a_picture_and_checkpoints(folders):
    run = folders["run"]
    assert sorted(path.name for path in run.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "arguments.yaml",
        "checkpoint-12",
        "checkpoint-6",
        "loss.png",
        "metrics.jsonl",
    ]
    assert (run / "loss.png").read_bytes().startswith(PNG)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["split"] == "train"] == list(range(1, 13))
    assert [line["step"] for line in lines if line["split"] == "validation"] == [0, 6, 12]


def test_training_says_what_it_reads_what_it_trains_and_what_to_type_next(folders):
    said = folders["training"].stdout
    assert "dailydialog train: 21 examples" in said
    assert "parameters trained" in said and "frozen" in said
    assert "validation loss" in said and "->" in said
    assert f"generate.py --adapter {folders['run']}" in said


def test_nothing_of_jittor_is_heard_on_the_terminal(folders):
    training = folders["training"]
    assert "Compiling Operators" not in training.stderr + training.stdout
    assert "[i " not in training.stderr


def test_the_arguments_of_a_run_are_a_recipe_for_the_same_run(folders, tmp_path):
    result = command("train.py", "--config", folders["run"] / "arguments.yaml", "--output-dir", tmp_path / "again")
    assert result.returncode == 0, result.stderr
    first, again = (
        safetensors.numpy.load_file(run / "adapter_model.safetensors") for run in (folders["run"], tmp_path / "again")
    )
    for key, value in first.items():
        np.testing.assert_array_equal(value, again[key], err_msg=key)


def test_what_is_checked_before_jittor_does_not_import_it():
    modules = "training.setup, training.forecast, generation.console, lora.merging, gpt2_jittor.doctor, train, evaluate"
    result = command("-c", f"import sys, {modules}; print('jittor' in sys.modules)")
    assert result.stdout.strip() == "False", result.stderr


def test_a_run_is_not_overwritten_by_another(folders):
    result = command(*train(folders["run"], folders["model"], folders["data"]))
    assert_one_line_error(result, folders["run"], "--resume", "--output-dir")


def test_an_answer_is_one_json_object(folders):
    options = (
        "--adapter",
        folders["run"],
        "--prompt",
        "do you like tea ?",
        "--greedy",
        "--json",
        "--max-new-tokens",
        5,
    )
    first, again = (command("generate.py", *options) for _ in range(2))
    assert first.returncode == 0, first.stderr
    answer = json.loads(first.stdout)
    assert answer["prompt"] == "do you like tea ?" and answer["tokens"] <= 5
    assert answer["answer"] == json.loads(again.stdout)["answer"]


def test_a_session_answers_each_line_and_ends_at_exit(folders):
    typed = "hello\nhow is it ?\nexit\nnever read\n"
    result = command(
        "generate.py", "--adapter", folders["run"], "--json", "--seed", 1, "--max-new-tokens", 4, given=typed
    )
    assert result.returncode == 0, result.stderr
    assert [json.loads(line)["prompt"] for line in result.stdout.splitlines()] == ["hello", "how is it ?"]


def test_a_session_outlives_its_context_and_a_turn_that_is_too_long(folders):
    typed = "tea and sun and tea\n" * 8 + "tea " * 60 + "\nhello\n"  # then the end of the input
    result = command("generate.py", "--adapter", folders["run"], "--greedy", "--max-new-tokens", 30, given=typed)
    assert result.returncode == 0, result.stderr
    assert "shorten it" in result.stderr


def test_a_text_is_continued_without_an_adapter(folders):
    result = command("generate.py", "--model", folders["model"], "--prompt", "the sun", "--max-new-tokens", 3, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["tokens"] <= 3


def test_evaluation_shows_base_and_adapter_side_by_side(folders):
    result = command(
        "evaluate.py", "--adapter", folders["run"], "--data-dir", folders["data"], "--json", "--max-length", 60
    )
    assert result.returncode == 0, result.stderr
    measured = json.loads(result.stdout)
    metrics = [json.loads(line) for line in (folders["run"] / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in metrics if line["split"] == "validation"]
    # the test split is a copy of the validation split here
    assert measured["base"]["loss"] == pytest.approx(losses[0], abs=1e-4)
    assert measured["adapter"]["loss"] == pytest.approx(min(losses[1:]), abs=1e-4)


def test_ctrl_c_saves_and_resume_goes_on_from_there(folders, tmp_path):
    options = train(tmp_path / "run", folders["model"], folders["data"], "--max-steps", 300, "--eval-every", 300)
    process = subprocess.Popen([sys.executable, *map(str, options)], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not (metrics.exists() and metrics.read_text().count("\n") > 5):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == 130, process.stderr.read()
    (saved,) = (tmp_path / "run").glob("checkpoint-*")
    arguments = yaml.safe_load((tmp_path / "run" / "arguments.yaml").read_text())
    assert arguments["max_steps"] == 300
    more = train(tmp_path / "run", folders["model"], folders["data"], "--max-steps", 301, "--resume")
    resumed = command(*more)
    assert resumed.returncode == 0, resumed.stderr
    assert f"resuming from {saved}" in resumed.stdout
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines() if '"train"' in line]
    assert steps == list(range(1, 302))


def test_a_resumed_run_keeps_the_arguments_it_began_with(folders):
    run, kept = folders["run"], (folders["run"] / "arguments.yaml").read_bytes()
    changed = command("train.py", "--output-dir", run, "--resume", "--batch-size", 7, "--lora-r", 3)
    assert_one_line_error(changed, "--batch-size (was 4)", "--lora-r (was 2)")
    assert (run / "arguments.yaml").read_bytes() == kept
    assert_one_line_error(command("train.py", "--output-dir", run.parent / "none", "--resume"), "no run to resume")
    assert not (run.parent / "none").exists()


def test_a_prompt_that_is_not_utf8_is_told_in_one_line(folders):
    result = command("generate.py", "--adapter", folders["run"], "--prompt", b"caf\xff")
    assert_one_line_error(result, "UTF-8")


def test_mistakes_are_told_in_one_line(folders, tmp_path):
    model, data, run = folders["model"], folders["data"], tmp_path / "run"
    (tmp_path / "empty").mkdir()
    binary = tmp_path / "binary" / "train"
    binary.mkdir(parents=True)
    (binary / "dialogues_train.txt").write_bytes(b"Hello . __eou__ Hi \xff\xfe . __eou__\n")
    assert_one_line_error(command(*train(run, tmp_path / "nowhere", data)), tmp_path / "nowhere")
    assert_one_line_error(command(*train(run, model, tmp_path / "empty")), tmp_path / "empty")
    assert_one_line_error(command(*train(run, model, tmp_path / "binary")), "dialogues_train.txt:1", "UTF-8")
    assert_one_line_error(command(*train(run, model, data, "--lora-r", 0)), "--lora-r", "at least 1")
    assert_one_line_error(command(*train(run, model, data, "--max-length", 500)), "--max-length", "500", "101")
    wrong = train(run, model, data, "--lora-targets", "q_proj")
    assert_one_line_error(command(*wrong, cc_path="/nowhere/g++"), "q_proj", "c_attn")  # known without a compiler
    assert_one_line_error(command(*train(run, model, data, "--lora-targets", ".*q_proj")), ".*q_proj", "c_attn")
    assert_one_line_error(command(*train(run, model, data, "--no-such-option", 1)), "--no-such-option")
    assert_one_line_error(command("train.py", "--task", "dailydialogue"), "dailydialog")
    assert_one_line_error(command("train.py", "--config", tmp_path / "no.yaml"), "no.yaml")
    assert_one_line_error(command(*train(run, model, data, "--tuning", "full", "--lora-r", 4)), "--lora-r")
    assert_one_line_error(command(*train(run, model, tmp_path / "none")), tmp_path / "none", "does not exist")
    assert_one_line_error(command("generate.py", "--adapter", tmp_path / "empty"), tmp_path / "empty", "adapter")
    assert_one_line_error(command("generate.py", "--greedy", "--top-k", 5), "--greedy", "--top-k")
    assert not run.exists(), "nothing is left behind by what never began"


def test_all_problems_of_a_command_are_told_in_one_line(folders, tmp_path):
    run, nowhere = folders["run"], tmp_path / "nowhere"
    wrong = train(run, nowhere / "model", nowhere / "data", "--device", "cuda")
    assert_one_line_error(command(*wrong, nvcc_path=""), run, "a run already", "--device cuda", "model", "data")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("lr: 1\nbatchsize: 4\nlora_r: x\nlearning_rate: 1" + "0" * 400)
    typed = ("train.py", "--config", recipe, "--seed", -1)
    assert_one_line_error(command(*typed), "lr", "batch_size", "lora_r must be int", "learning_rate", "--seed")


def test_the_models_own_folder_is_not_trained_in(folders):
    model, before = folders["model"], sorted(path.name for path in folders["model"].iterdir())
    wrong = train(model, model, folders["data"], "--tuning", "full", "--max-steps", 1)
    assert_one_line_error(command(*wrong), model, "own folder", "--output-dir")
    assert sorted(path.name for path in model.iterdir()) == before


def test_a_command_with_a_recipe_is_resumed_by_the_same_command(folders, tmp_path):
    recipe, run = tmp_path / "recipe.yaml", tmp_path / "run"
    recipe.write_text("epochs: 2\nlora_r: 2\nlearning_rate: 0.01\n")
    line = train(run, folders["model"], folders["data"], "--config", recipe, "--max-steps", 2, "--learning-rate", 0.02)
    assert command(*line).returncode == 0
    resumed = command(*line, "--resume")
    assert resumed.returncode == 0 and "resuming from" in resumed.stdout, resumed.stderr


def test_a_number_of_epochs_beyond_all_counting_is_refused(folders, tmp_path):
    wrong = train(tmp_path / "run", folders["model"], folders["data"], "--epochs", "1e308")
    assert_one_line_error(command(*wrong), "--epochs", "at most 1,000,000")


def test_a_model_that_cannot_be_fetched_is_told_in_one_line(folders, tmp_path):
    away = {"HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9"}  # port 9, discard: nothing listens
    assert_one_line_error(command(*train(tmp_path / "run", "gpt2", folders["data"]), **away), "gpt2")


def test_a_truncated_checkpoint_is_told_in_one_line(folders, tmp_path):
    broken = tiny.model_folder(tmp_path / "broken", seed=3)
    whole = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert_one_line_error(command(*train(tmp_path / "run", broken, folders["data"])), "model.safetensors")


def test_an_adapter_for_another_width_is_told_in_one_line(folders, tmp_path):
    wide = tiny.model_folder(tmp_path / "wide", seed=4, n_embd=48)
    result = command("generate.py", "--adapter", folders["run"], "--model", wide, "--prompt", "hello")
    assert_one_line_error(result, folders["run"], wide, "another base")
