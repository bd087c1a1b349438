"""Folders of people's own data: which files are a split's, and which are one together."""

import pytest
import tiny
from own_records import pairs, task_of, texts

from common.errors import UserError


@pytest.mark.parametrize("name", ["validation", "valid", "val", "dev"])
def test_a_folder_has_a_file_a_split_and_validation_has_many_names(tmp_path, name):
    tiny.write_records(tmp_path / "train.jsonl", pairs(range(3)))
    tiny.write_records(tmp_path / f"{name}.jsonl", pairs([3]))
    tiny.write_records(tmp_path / "test.jsonl", pairs([4, 5]))
    task = task_of("complete")
    assert [len(task.load(split, tmp_path)) for split in ("train", "validation", "test")] == [3, 1, 2]
    assert task.measured_on(tmp_path) == "test"


@pytest.mark.parametrize("place", ["", "data/"])
@pytest.mark.parametrize("ending", ["-00000-of-00001.parquet", "-00000-of-00001-a09b74b3ef9c3b56.parquet", ".jsonl"])
def test_a_copy_of_a_hubs_repository_is_such_a_folder(tmp_path, place, ending):
    for split, numbers in (("train", range(4)), ("validation", [5]), ("test", [6, 7])):
        tiny.write_records(tmp_path / f"{place}{split}{ending}", pairs(numbers))
    task = task_of("complete")
    assert [len(task.load(split, tmp_path)) for split in ("train", "validation", "test")] == [4, 1, 2]


@pytest.mark.parametrize("ending", [".parquet", ".jsonl", ".jsonl.gz"])
def test_the_parts_of_a_split_are_read_as_one(tmp_path, ending):
    for part, numbers in enumerate(([0, 1], [2, 3, 4], [5])):
        tiny.write_records(tmp_path / f"train-{part:05}-of-00003{ending}", pairs(numbers))
    task = task_of("complete", tmp_path, validation_share=0.4)
    train, validation = (task.load(split, tmp_path) for split in ("train", "validation"))
    assert sorted(texts(train) + texts(validation)) == [f"question {number}| answer {number}" for number in range(6)]
    assert train.notes == [f"train-*-of-00003{ending} is read as prompt/completion"]
    part = tmp_path / f"train-00001-of-00003{ending}"
    assert task.measured_on(part) == "validation"  # it belongs to what was trained on
    part.unlink()
    with pytest.raises(UserError, match=r"train-00000-of-00003.* is one of 3 parts, and 2 are there: get the others"):
        task_of("complete").load("train", tmp_path)


def test_a_whole_file_beside_parts_is_refused(tmp_path):
    for name in ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "train.parquet"):
        tiny.write_records(tmp_path / name, pairs([1]))
    with pytest.raises(UserError, match=r"train\.parquet and train-00000-of-00002\.parquet are both train data"):
        task_of("complete").load("train", tmp_path)


def test_files_that_may_be_meant_as_a_split_are_named(tmp_path):
    for name in ("train.jsonl", "eval.jsonl", "data/training.parquet"):
        tiny.write_records(tmp_path / name, pairs([1, 2, 3]))
    (tmp_path / "README.md").touch()
    notes = task_of("complete").load("train", tmp_path).notes
    assert notes[1:] == ["files that are no split's, not used: eval.jsonl, data/training.parquet"]
    assert "not used" not in str(task_of("complete").load("train", tmp_path / "eval.jsonl").notes)
