"""The package as others see it: its tasks by name, and the name that it takes from Hugging Face's package."""

import subprocess
import sys

import pytest
from places import ROOT

import datasets
from common.errors import UserError
from datasets.tasks import TASKS, data_dir, find, sample_dir


def test_the_tasks_are_known_by_name_and_only_text_needs_the_users_own_files():
    kinds = {"dailydialog": "chat", "squad": "qa", "imdb": "text", "dolly": "instruct", "emotion": "classify"}
    assert {name: each.kind.name for name, each in TASKS.items()} == kinds | {
        "rte": "classify",
        "e2e": "describe",
        "text": "text",
    }
    assert [name for name, each in TASKS.items() if each.sample is None] == ["text"]
    assert all(bool(each.labels) == (not each.kind.generates) for each in TASKS.values())


def test_a_misspelt_task_is_answered_with_the_nearest_name():
    assert find("text") is TASKS["text"]
    with pytest.raises(UserError, match="did you mean dailydialog"):
        find("dailydialogue")
    with pytest.raises(UserError, match="choose from dailydialog"):
        find("zzz")


def test_the_data_dir_called_sample_is_the_embedded_one_where_there_is_one(tmp_path, monkeypatch):
    (tmp_path / "sample").mkdir()
    monkeypatch.chdir(tmp_path)
    assert data_dir(find("dailydialog"), None) is None
    assert data_dir(find("dailydialog"), "sample").name == "dailydialog"
    assert str(data_dir(find("text"), "./sample")) == "sample"
    with pytest.raises(UserError, match="no embedded sample"):
        data_dir(find("text"), "sample")


def test_a_data_dir_that_is_not_there_is_told_as_such(tmp_path):
    with pytest.raises(UserError, match="nowhere does not exist"):
        data_dir(find("dailydialog"), str(tmp_path / "nowhere"))


def test_every_embedded_sample_has_every_split():
    for each in TASKS.values():
        if each.sample:
            assert all(len(each.load(split, sample_dir(each))) for split in datasets.example.SPLITS)


def test_the_package_answers_to_the_names_that_transformers_looks_for():
    assert (datasets.Dataset.__name__, datasets.IterableDataset.__name__) == ("Dataset", "IterableDataset")
    assert datasets.__version__


def test_reading_data_needs_neither_jittor_nor_torch():
    script = "import sys, datasets.tasks, datasets.batches; print({'jittor', 'torch'} & set(sys.modules))"
    root = ROOT
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
