"""Tasks on people's own data: what is set apart, labels, and what the arguments may say."""

import json

import numpy as np
import pytest
from own_records import pairs, task_of, texts
from tiny import write_records as write

from common.errors import UserError
from datasets import tasks
from datasets.encode import IGNORED


def classes(rng, count: int, labels=("no", "yes", "maybe")) -> list[dict]:
    """Texts that are all different, each label at least once."""
    picked = [*labels, *rng.choice(labels, count - len(labels))]
    return [{"text": f"text {number}", "label": str(label)} for number, label in enumerate(picked)]


def test_each_task_is_of_a_kind_and_a_misspelt_one_is_answered_with_the_nearest_name():
    kinds = {"chat": "chat", "instruct": "instruct", "complete": "complete", "classify": "classify"}
    assert {name: tasks.find(name).kind.name for name in kinds} == kinds
    with pytest.raises(UserError, match="there is no task 'clasify': did you mean classify"):
        tasks.find("clasify")
    with pytest.raises(UserError, match="for data of your own chat, instruct, complete, classify"):
        tasks.find("zzz")


def test_what_a_run_says_counts_for_its_own_task_alone():
    run = {"task": "classify", "labels": ["b", "a"]}
    assert tasks.find("classify", run).labels == ("b", "a")
    assert tasks.find("classify", run | {"task": "complete"}).labels == ()


def test_without_a_validation_file_a_share_is_set_apart_and_nothing_stands_on_both_sides(tmp_path, rng):
    # forty questions, each five times, with another answer each time
    rows = [{"prompt": f"question {number % 40}", "completion": f"answer {number}"} for number in range(200)]
    path = write(tmp_path / "a.jsonl", rows)
    share = float(rng.uniform(0.05, 0.4))
    task = task_of("complete", path, validation_share=share)
    train, validation = (texts(task.load(split, path)) for split in ("train", "validation"))
    asked = [{text.partition("|")[0] for text in side} for side in (train, validation)]
    assert not asked[0] & asked[1] and len(train) + len(validation) == 200
    assert len(asked[1]) == max(1, round(share * 40))
    shuffled = write(tmp_path / "b.jsonl", rng.permutation(rows).tolist())
    assert {*texts(task_of("complete", shuffled, validation_share=share).load("validation", shuffled))} == {*validation}


def test_where_all_are_asked_the_same_the_whole_of_a_record_decides(tmp_path):
    rows = [{"prompt": "Tell a joke.", "completion": f"joke {number % 20}"} for number in range(60)]
    path = write(tmp_path / "a.jsonl", rows)
    task = task_of("complete", path)
    train, validation = (texts(task.load(split, path)) for split in ("train", "validation"))
    assert len(validation) == 6 and not {*train} & {*validation}


def test_a_share_where_a_validation_file_is_there_is_refused(tmp_path):
    write(tmp_path / "train.jsonl", pairs(range(9)))
    write(tmp_path / "dev.jsonl", pairs([9]))
    with pytest.raises(UserError, match=r"validation_share: .*dev\.jsonl is there already: leave it out"):
        task_of("complete", validation_share=0.5).load("train", tmp_path)


def test_a_file_is_train_and_validation_to_its_run_and_test_data_to_any_other(tmp_path):
    path, other = write(tmp_path / "a.jsonl", pairs(range(20))), write(tmp_path / "b.jsonl", pairs(range(7)))
    task = task_of("complete", path)
    assert (task.measured_on(path), task.measured_on(other)) == ("validation", "test")
    assert len(task.load("test", other)) == 7
    with pytest.raises(
        UserError, match=r"a\.jsonl has no test data, such as test\.csv: give some, or split validation"
    ):
        task.load("test", path)


def test_a_folder_without_data_or_with_two_files_for_a_split_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"has no train\.jsonl, \.json, \.csv, \.tsv or \.parquet: name"):
        task_of("complete").load("train", tmp_path)
    write(tmp_path / "train.jsonl", pairs([1]))
    (tmp_path / "train.csv").write_text("prompt,completion\na,b\n")
    with pytest.raises(UserError, match=r"train\.jsonl and train\.csv are both train data: keep one"):
        task_of("complete").load("train", tmp_path)
    with pytest.raises(UserError, match="task chat reads your own data: give a file with data, or data_dir"):
        task_of("chat").load("train", None)


def test_labels_are_those_of_the_training_data_by_name_or_by_number(tmp_path, rng):
    path = write(tmp_path / "a.jsonl", classes(rng, 40))
    task = task_of("classify", path)
    assert task.labels == ("maybe", "no", "yes")
    by_text = {row["text"]: row["label"] for row in map(json.loads, path.read_text().splitlines())}
    for split in ("train", "validation"):
        for example in task.load(split, path):
            assert task.labels[example.label] == by_text[example.segments[0].text] and not example.name
    numbered = write(tmp_path / "b.jsonl", [{"text": f"t{n}", "label": n % 11} for n in range(40)])
    assert task_of("classify", numbered).labels == tuple(map(str, range(11)))


def test_labels_that_a_run_knows_stay_in_their_order_and_another_is_refused_with_its_place(tmp_path, rng):
    path = write(tmp_path / "a.jsonl", classes(rng, 30))
    task = task_of("classify", path, labels=["yes", "no", "maybe"])
    assert task.labels == ("yes", "no", "maybe") and task.settle is None
    write(tmp_path / "new" / "train.jsonl", classes(rng, 30))
    dev = write(tmp_path / "new" / "dev.jsonl", [*classes(rng, 5), {"text": "a", "label": "never"}])
    task = task_of("classify", data=None, data_dir=str(tmp_path / "new"))
    with pytest.raises(UserError, match=rf"{dev}:6: the label 'never' is none of the training data's: maybe, no, yes"):
        task.load("validation", tmp_path / "new")


def test_labels_that_look_like_slips_are_said(tmp_path):
    write(tmp_path / "train.jsonl", [{"text": f"t{n}", "label": ("Yes", "yes", "no")[n % 3]} for n in range(9)])
    write(tmp_path / "dev.jsonl", [{"text": "t", "label": "no"}])
    task = task_of("classify", data=None, data_dir=str(tmp_path))
    assert task.load("train", tmp_path).notes[1:] == [
        "3 labels: Yes 3, yes 3, no 3",
        "labels that differ in capitals alone: Yes, yes",
    ]
    assert "labels without an example: Yes, yes" in task.load("validation", tmp_path).notes


def test_one_label_alone_or_a_thousand_are_no_classes(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"text": f"t{n}", "label": "x"} for n in range(9)])
    with pytest.raises(UserError, match=r"a\.jsonl has one label only, 'x'"):
        task_of("classify", path)
    path = write(tmp_path / "a.jsonl", [{"text": f"t{n}", "label": f"x{n}"} for n in range(1001)])
    with pytest.raises(UserError, match=r"a\.jsonl has 1,001 labels: is it another column \(columns label=…\)"):
        task_of("classify", path)


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("complete", {"columns": ["promt=a"]}, "columns: there is no 'promt': did you mean prompt"),
        ("complete", {"columns": ["prompt"]}, "columns takes NAME=COLUMN"),
        ("complete", {"columns": ["prompt=a", "prompt=b"]}, "columns: 'prompt=b' says a name that was given already"),
        ("complete", {"labels": ["a", "b"]}, "labels are a classifier's, and task complete is none"),
        ("classify", {"labels": ["a", "a"]}, "labels must be two or more, each named once"),
        ("classify", {"labels": ["a", 1]}, "labels must be two or more, each named once"),
        (
            "squad",
            {"columns": ["prompt=a"]},
            "columns says something of your own data, and task squad",
        ),
        ("squad", {"validation_share": 0.5}, "validation_share says something of your own data"),
    ],
)
def test_settings_that_make_no_sense_are_refused(name, settings, words):
    with pytest.raises(UserError, match=words):
        task_of(name, **settings)


def test_a_file_and_a_folder_exclude_each_other_and_each_must_be_there(tmp_path):
    task, path = tasks.find("complete"), write(tmp_path / "a.jsonl", pairs([1]))
    assert tasks.data_path(task, None, str(path)) == path and tasks.data_path(task, str(tmp_path), None) == tmp_path
    with pytest.raises(UserError, match="data and data_dir exclude each other"):
        tasks.data_path(task, str(tmp_path), str(path))
    with pytest.raises(UserError, match="is a folder: give it with data_dir"):
        tasks.data_path(task, None, str(tmp_path))
    with pytest.raises(UserError, match="is no file: give one of complete data"):
        tasks.data_path(task, None, str(tmp_path / "b.jsonl"))
    with pytest.raises(UserError, match="is a file, and DailyDialog a folder; of your own data, name what they are"):
        tasks.find("dailydialog").load("train", path)


def test_completions_are_scored_with_their_end_and_too_long_ones_are_dropped_whole(tmp_path, tokenizer):
    path = write(tmp_path / "a.jsonl", [{"prompt": "ab", "completion": "cd"}, {"prompt": "a" * 20, "completion": "b"}])
    dataset = task_of("complete", trained=None).load("test", path)
    encoded = tasks.find("complete").encode(dataset.examples, tokenizer, 10)
    (item,) = encoded.items
    # bytes: "a" is 64 behind "!", a space 220, the end token 256
    assert item.input_ids.tolist() == [64, 65, 220, 66, 67, 256]
    assert item.labels.tolist() == [IGNORED, IGNORED, 220, 66, 67, 256]
    assert encoded.dropped == [f"{path}:2: 23 tokens are the least of it, 10 fit"]


def test_texts_without_a_prompt_are_packed_into_windows(tmp_path, tokenizer, rng):
    rows = [{"text": "x" * int(length)} for length in rng.integers(1, 30, 12)]
    path = write(tmp_path / "a.jsonl", rows)
    encoded = tasks.find("complete").encode(task_of("complete").load("test", path).examples, tokenizer, 16)
    whole = np.concatenate([item.input_ids for item in encoded.items])
    total = sum(len(row["text"]) + 1 for row in rows)
    assert len(whole) == total - (total % 16 == 1)  # in a window of one token nothing could be scored
    assert max(encoded.lengths) == 16


def test_what_a_run_was_trained_on_is_never_its_test_data(tmp_path):
    """By whichever name it is called: the file, the folder that it is in, or the training file of that folder."""
    file = write(tmp_path / "d" / "train.jsonl", pairs(range(40)))
    other = write(tmp_path / "other.jsonl", pairs([50]))
    for run in ({"data": str(file)}, {"data_dir": str(file)}, {"data_dir": str(tmp_path / "d")}):
        task = tasks.find("complete", {"task": "complete"} | run)
        assert task.measured_on(file) == "validation"
        trained = {*texts(task.load("train", file))}
        assert trained.isdisjoint(texts(task.load("validation", file)))
        assert task.measured_on(other) == "test" and len(task.load("test", other)) == 1
    write(tmp_path / "d" / "valid.jsonl", pairs([41]))
    task = tasks.find("complete", {"task": "complete", "data_dir": str(tmp_path / "d")})
    assert texts(task.load("validation", file)) == texts(task.load("validation", tmp_path / "d"))


def test_columns_may_be_called_as_the_other_shape_of_instructions_calls_them(tmp_path):
    rows = [{"question": "why?", "passage": "tea is warm", "answer": "so"}]
    file = write(tmp_path / "a.jsonl", rows)
    for named in ("context", "input"):
        columns = ["instruction=question", "output=answer", f"{named}=passage"]
        task = tasks.find("instruct", {"task": "instruct", "columns": columns})
        assert "tea is warm" in texts(task.load("test", file))[0]
    task = tasks.find("chat", {"task": "chat", "columns": ["completion=answer"]})
    write(file, [{"messages": [], "answer": "x"}])
    with pytest.raises(UserError, match="there is no 'completion' in messages"):
        task.load("test", file)


def test_a_field_that_only_later_records_have_is_a_column(tmp_path):
    rows = [{"instruction": "a", "output": "b"}, {"instruction": "c", "output": "d", "ctx": "tea", "More": "1"}]
    task = tasks.find("instruct", {"task": "instruct", "columns": ["input=ctx"]})
    dataset = task.load("test", write(tmp_path / "a.jsonl", rows))
    assert "tea" in texts(dataset)[1] and "not used: More" in dataset.notes[0]


def test_labels_that_only_look_like_numbers_are_texts(tmp_path):
    rows = [{"text": text, "label": label} for text, label in (("a", "--1"), ("b", "1"))]
    assert task_of("classify", write(tmp_path / "a.jsonl", rows)).labels == ("--1", "1")


def test_an_empty_chat_template_is_refused(tmp_path):
    (tmp_path / "a.jinja").write_text(" \n")
    with pytest.raises(UserError, match=r"chat_template .*a\.jinja is empty: give another file"):
        tasks.chat_template(tasks.find("chat"), str(tmp_path / "a.jinja"))
