"""The card of a run: a header that the hub reads, and figures, commands and data of that very run."""

import json
import shlex
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import yaml
from safetensors.numpy import load_file

import train
from datasets import tasks
from training.arguments import TrainingArguments
from training.checkpoint import Progress
from training.model_card import write_card


def card(folder) -> tuple[dict, str]:
    """The header as YAML gives it, and the text under it."""
    nothing, header, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    assert nothing == ""
    return yaml.safe_load(header), text


def written(folder, model: str, directory, task: str = "dailydialog", progress=None, **settings) -> tuple[dict, str]:
    arguments = TrainingArguments(task=task, model=model, output_dir=str(folder), **settings)
    source = SimpleNamespace(directory=directory, tokenizer=SimpleNamespace(pad_token_id=256))
    reports = ("train: 7", "validation: 3")
    inputs = SimpleNamespace(arguments=arguments, task=tasks.find(task), source=source, reports=reports)
    folder.mkdir(exist_ok=True)
    write_card(inputs, progress or Progress(12, 12, 1.5, 9, 2.5), trained=1234, frozen=5678901)
    return card(folder)


def commands(text: str) -> list[list[str]]:
    """What a shell makes of the commands that stand in the text."""
    return [shlex.split(line) for line in text.splitlines() if line.startswith("python ")]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of six updates, validated at every second."""
    root = tmp_path_factory.mktemp("world")
    tiny.model_folder(root / "base", seed=1)
    tiny.dialogue_folder(root / "data", seed=2)
    options = ["--model", root / "base", "--data-dir", root / "data", "--output-dir", root / "run", "--max-steps", 6]
    options += ["--eval-every", 2, "--learning-rate", 0.05, "--lora-r", 3, "--seed", 4]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train.py", *map(str, options)])
        train.main()
    return SimpleNamespace(folder=root / "run")


def test_a_readme_of_the_users_own_stays(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "README.md").write_text("My notes.")
    with pytest.raises(ValueError, match="unpack"):
        written(folder, "gpt2", tmp_path)
    assert (folder / "README.md").read_text() == "My notes." and (folder / "model-card.md").is_file()
    (folder / "README.md").unlink()
    first = written(folder, "gpt2", tmp_path)
    assert written(folder, "gpt2", tmp_path) == first and {path.name for path in folder.iterdir()} == {
        "README.md",
        "model-card.md",
    }


def test_the_figures_are_those_of_the_run(run):
    records = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    first, *others = [record for record in records if record["split"] == "validation"]
    best = min(others, key=lambda record: record["loss"])
    _, text = card(run.folder)
    assert f"| before | {first['loss']:.4f} | {first['perplexity']:.2f} |" in text
    assert f"| best, step {best['step']} of 6 | {best['loss']:.4f} | {best['perplexity']:.2f} |" in text


def test_the_parameters_the_data_and_the_command_are_those_of_the_run(run):
    _, text = card(run.folder)
    # c_attn 36 -> 108, c_proj 36 -> 36 and 58 -> 36, c_fc 36 -> 58, rank 3, in two layers
    trained = 2 * 3 * ((36 + 108) + (36 + 36) + (36 + 58) + (58 + 36))
    assert f"{trained:,} parameters trained, " in text and "seed 4" in text
    assert "dailydialog train: 21 examples, " in text and "dailydialog validation: 7 examples, " in text
    use = [["python", name, "--adapter", str(run.folder)] for name in ("generate.py", "evaluate.py")]
    again = ["python", "train.py", "--config", str(run.folder / "arguments.yaml"), "--output-dir", "runs/again"]
    assert commands(text) == [again, *use]
    assert (run.folder / "loss.png").is_file() and "(loss.png)" in text


def test_the_command_of_the_card_repeats_the_run(run, tmp_path, monkeypatch):
    again, *_ = commands(card(run.folder)[1])
    monkeypatch.setattr(sys, "argv", [*again[1:-1], str(tmp_path / "again")])
    train.main()
    first, second = (load_file(folder / "adapter_model.safetensors") for folder in (run.folder, tmp_path / "again"))
    assert first.keys() == second.keys()
    for name, values in first.items():
        np.testing.assert_array_equal(second[name], values, err_msg=name)


@pytest.mark.parametrize("model", ["gpt2", "distilbert/distilgpt2"])
def test_a_model_of_the_hub_is_named_as_the_base(tmp_path, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    header, text = written(tmp_path / "run", model, tmp_path / "cache")
    assert header == {
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["gpt2", "dailydialog", "lora"],
        "base_model": model,
    }
    assert f"# {model.split('/')[-1]} on dailydialog, LoRA\n" in text


@pytest.mark.parametrize("model", ["nano", "FOLDER"])
def test_a_folder_is_no_base_that_the_hub_knows(tmp_path, model):
    folder = tmp_path / "a model"
    folder.mkdir()
    header, _ = written(tmp_path / "run", model.replace("FOLDER", str(folder)), folder)
    assert "base_model" not in header


def test_a_fully_tuned_classifier_is_a_transformers_model(tmp_path):
    header, text = written(tmp_path / "a run", "gpt2", tmp_path, "emotion", tuning="full")
    assert header["library_name"] == "transformers" and header["pipeline_tag"] == "text-classification"
    assert header["tags"] == ["gpt2", "emotion"] and "PEFT" not in text
    assert f"python evaluate.py --model '{tmp_path}/a run'\n" in text  # to be typed as it stands


def test_what_peft_reads_a_run_with_is_said_with_its_classes(tmp_path):
    _, chat = written(tmp_path / "chat", "gpt2", tmp_path)
    _, emotion = written(tmp_path / "emotion", "gpt2", tmp_path, "emotion")
    given = "from_pretrained(FOLDER, dtype=torch.float32"
    assert f"`AutoPeftModelForCausalLM.{given})`" in chat and "pad_token_id" not in chat
    assert f"`AutoPeftModelForSequenceClassification.{given}, num_labels=6)`" in emotion
    assert "`model.config.pad_token_id = 256`" in emotion


def test_a_folder_with_a_space_can_be_typed_as_its_commands_stand(tmp_path):
    _, text = written(tmp_path / "a run", "gpt2", tmp_path)
    again, *use = commands(text)
    assert again[2:4] == ["--config", f"{tmp_path}/a run/arguments.yaml"]
    assert [command[2:] for command in use] == [["--adapter", f"{tmp_path}/a run"]] * 2


def test_a_classifiers_figures_are_accuracies(tmp_path):
    progress = Progress(30, 30, 0.5, 20, 1.75, first_accuracy=0.125, best_accuracy=0.8125)
    _, text = written(tmp_path, "gpt2", tmp_path, "emotion", progress)
    assert "| validation | loss | accuracy |" in text and "perplexity" not in text
    assert "| before | 1.7500 | 12.5% |" in text and "| best, step 20 of 30 | 0.5000 | 81.2% |" in text


def test_numbers_are_written_as_worked_by_hand(tmp_path):
    _, text = written(tmp_path, "gpt2", tmp_path, progress=Progress(1200, 1200, 1.5, 1000, 2.5))
    assert "1,234 parameters trained, 5,678,901 frozen" in text and "```\ntrain: 7\nvalidation: 3\n```" in text
    assert "| before | 2.5000 | 12.18 |" in text  # exp(2.5) = 12.1825, exp(1.5) = 4.4817
    assert "| best, step 1,000 of 1,200 | 1.5000 | 4.48 |" in text
