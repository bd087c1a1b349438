"""Which split `evaluate.py` measures where none was asked for."""

import pytest

from datasets import tasks
from evaluate import split_of


@pytest.mark.parametrize("name", ["e2e", "emotion", "squad", "rte", "imdb"])
def test_a_file_that_the_run_was_not_trained_on_is_measured_whole(name, tmp_path):
    task, (file, other) = tasks.find(name), (tmp_path / "mine.csv", tmp_path / "other.csv")
    file.write_text("one")
    other.write_text("two")
    (tmp_path / "copy.csv").write_text("one")
    for trained_on, path, expected in (
        (other, file, "whole"),
        (tmp_path, file, "whole"),
        (file, file, "test"),  # it is all the data there is: a part was set apart
        (tmp_path / "copy.csv", file, "test"),
        (tmp_path / "moved.csv", file, "test"),
        (other, tmp_path, "test"),
        (other, None, "test"),
    ):
        assert split_of(task, path, {"task": name, "data_dir": str(trained_on)}) == expected
    assert split_of(task, file, {}) == "test"  # it may have been trained on the rest of it
    assert split_of(tasks.find("dolly"), file, {"task": "dolly", "data_dir": str(other)}) == "test"


@pytest.mark.parametrize("name", ["emotion", "squad", "rte", "imdb", "e2e"])
def test_all_of_the_embedded_sample_is_read_where_it_is_not_parted(name):
    task = tasks.find(name)
    file = next(path for path in sorted(task.sample.rglob("*")) if path.is_file() and "train" in path.name)
    whole = task.load("whole", file).examples
    parts = [len(task.load(split, file).examples) for split in ("train", "validation", "test")]
    assert len(whole) == sum(parts) > max(parts)
