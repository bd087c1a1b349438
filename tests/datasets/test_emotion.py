"""Emotion: every format, the class that is read from a message's last token, and what is wrong with broken lines."""

from pathlib import Path

import numpy as np
import pytest
from places import SHARED
from tiny import write_records

from common.errors import UserError
from datasets.encode import IGNORED
from datasets.tasks.emotion import LABELS, SAMPLE_DIR, TASK, load, prompt
from gpt2_jittor.checkpoint.locate import NANO
from gpt2_jittor.checkpoint.tokenizer import load_tokenizer

CORPUS = SHARED / "emotion"
needs_corpus = pytest.mark.skipif(not CORPUS.is_dir(), reason=f"Emotion itself is not in {CORPUS}")
ROWS = [("i feel fine; really", "joy"), ("i miss you", "love"), ("what a day", "surprise")]


def write(folder: Path, name: str, rows=ROWS) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".txt":
        path.write_text("text;label_name\n" + "".join(f"{text};{label}\n" for text, label in rows))
        return path
    records = [{"text": text, "label": LABELS.index(label)} for text, label in rows]
    return write_records(path, records)


def rows(dataset) -> list[tuple[str, str]]:
    return [(example.segments[0].text, LABELS[example.label]) for example in dataset]


def test_a_message_becomes_its_tokens_none_of_them_scored_and_no_end_token_follows(tokenizer):
    (item,) = TASK.encode([prompt(" so sad ")], tokenizer, 100).items
    # "s" is byte 115, the 82nd behind "!"; "o" the 78th, "a" the 64th, "d" the 67th
    assert item.input_ids.tolist() == [82, 78, 220, 82, 64, 67]
    assert set(item.labels.tolist()) == {IGNORED}


def test_the_label_goes_with_the_ids_and_counts_as_what_is_scored(tokenizer, tmp_path):
    write(tmp_path, "train.txt")
    encoded = TASK.encode(load("train", tmp_path).examples, tokenizer, 100)
    assert [item.label for item in encoded.items] == [1, 2, 5]
    assert encoded.scored == 3


@pytest.mark.parametrize(
    "name",
    [
        "val.txt",
        "validation.txt",
        "val.jsonl",
        "validation.jsonl.gz",
        "val.parquet",
        "split/validation-00000-of-00001.parquet",
    ],
)
def test_every_format_holds_the_same_messages(tmp_path, name):
    path = write(tmp_path, name)
    dataset = load("validation", tmp_path)
    assert rows(dataset) == ROWS
    first, where = {".txt": (2, ""), ".parquet": (1, "row ")}.get(path.suffix, (1, ""))
    assert [example.source for example in dataset] == [f"{path}:{where}{first + index}" for index in range(3)]


def test_a_table_with_a_header_and_labels_in_capitals_is_read(tmp_path):
    (tmp_path / "test.csv").write_text('sentence,emotion\n"i feel fine, really",Joy\ni miss you,LOVE\nwhat a day,5\n')
    assert rows(load("test", tmp_path)) == [("i feel fine, really", "joy"), ("i miss you", "love"), ROWS[2]]


@pytest.mark.parametrize("header", ["text;label", "Text;Label", "sentence;emotion"])
def test_a_header_line_is_no_message(tmp_path, header):
    (tmp_path / "test.txt").write_text(f"{header}\ni feel fine;Joy\n")
    assert rows(load("test", tmp_path)) == [("i feel fine", "joy")]


def test_a_file_without_its_header_loses_no_line(tmp_path):
    (tmp_path / "test.txt").write_text("i feel fine;joy\r\n\r\ni miss you;love")
    assert rows(load("test", tmp_path)) == [("i feel fine", "joy"), ("i miss you", "love")]


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_without_a_folder_the_split_comes_from_the_hub(tmp_path, monkeypatch, split):
    file, asked = write(tmp_path, "x.parquet"), []
    monkeypatch.setattr("datasets.tasks.emotion.fetch", lambda *what, **how: asked.append((what, how)) or file)
    assert rows(load(split, None)) == ROWS
    assert asked == [(("dair-ai/emotion", f"split/{split}-00000-of-00001.parquet"), {"repo_type": "dataset"})]


@pytest.mark.parametrize("name", ["mine.txt", "test.jsonl.gz", "mine.parquet"])
def test_a_single_file_is_parted_so_that_no_message_is_in_two_splits_whatever_its_order(tmp_path, name, rng):
    messages = [(f"i feel like number {number}", "joy") for number in rng.integers(0, 50, 100)]
    file = write(tmp_path / "one", name, messages)
    other = write(tmp_path / "other", "mine.txt", [messages[index] for index in rng.permutation(100)])
    found = [rows(load(split, file)) for split in ("train", "validation", "test")]
    assert sorted(sum(found, [])) == sorted(messages)
    distinct = [len(set(part)) for part in found]
    assert sum(distinct) == len(set(messages))
    assert distinct[1] == distinct[2] == round(0.1 * len(set(messages)))
    assert [sorted(rows(load(split, other))) for split in ("train", "validation", "test")] == list(map(sorted, found))


def test_the_prompt_of_use_has_the_ids_of_training_whole_or_cut(tokenizer):
    text = "i feel like talking about everything"
    for length in (100, 36, 20, 1):
        trained = TASK.encode([prompt(text)], tokenizer, length)
        (used,) = TASK.encode_prompt(TASK.prompt(f" {text}\n"), tokenizer, length)
        np.testing.assert_array_equal(used, trained[0].input_ids)
        assert used.tolist() == tokenizer(text)["input_ids"][:length], "a long message loses its end"
        assert trained.shortened == (length < 36)


def test_an_end_token_spelled_out_in_a_message_is_not_an_end_token(tokenizer):
    item = TASK.encode([prompt("<|endoftext|>")], tokenizer, 100)[0]
    assert tokenizer.eos_token_id not in item.input_ids
    assert len(item.input_ids) == 13


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("i feel fine", "a line must be `text;label`, not 'i feel fine'"),
        (" ;joy", "a line must be `text;label`"),
        ("i feel fine;happiness", "there is no label 'happiness': the labels are sadness, joy, love, anger"),
        ("i feel fine;", "there is no label ''"),
        ("text;label_name", "there is no label 'label_name'"),
    ],
)
def test_a_broken_line_is_the_users_error_with_file_and_line(tmp_path, line, message):
    file = tmp_path / "train.txt"
    file.write_text(f"text;label_name\ni feel sad;sadness\n{line}\n")
    with pytest.raises(UserError, match=f"{file}:3: {message}"):
        load("train", tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "i feel fine"}', "the field 'label' is missing"),
        ('{"text": 3, "label": 1}', "the field 'text' must be text, not 3"),
        ('{"text": " ", "label": 1}', "the field 'text' is empty"),
        ('{"text": "i feel fine", "label": 6}', "there is no label 6"),
        (r'{"text": "i feel \ud800", "label": 1}', "the field 'text' holds half of a character"),
    ],
)
def test_a_broken_record_is_the_users_error_with_file_and_line(tmp_path, line, message):
    file = tmp_path / "train.jsonl"
    file.write_text(f'{{"text": "i feel sad", "label": "sadness"}}\n{line}\n')
    with pytest.raises(UserError, match=f"{file}:2: {message}"):
        load("train", tmp_path)


@pytest.mark.parametrize("content", ["", "\n\n", "text;label_name\n"])
def test_a_file_without_a_message_is_the_users_error(tmp_path, content):
    (tmp_path / "train.txt").write_text(content)
    for place in (tmp_path, tmp_path / "train.txt"):
        with pytest.raises(UserError, match=r"train\.txt is empty: it needs a `text;label` line"):
            load("train", place)


@pytest.mark.parametrize("folder", [".", "missing"])
def test_a_folder_without_the_split_is_told_what_was_looked_for(tmp_path, folder):
    write(tmp_path, "train.txt")
    with pytest.raises(
        UserError,
        match=r"has none of val\.txt, \.jsonl, \.json, \.csv, \.tsv, \.parquet, valid.*give emotion's validation file",
    ):
        load("validation", tmp_path / folder)


def test_bytes_that_are_not_utf8_are_reported_with_file_and_line(tmp_path):
    file = write(tmp_path, "train.txt")
    file.write_bytes(file.read_bytes() + b"caf\xe9;joy\n")
    with pytest.raises(UserError, match=rf"{file}:5: this is not UTF-8"):
        load("train", tmp_path)


@pytest.mark.parametrize(("split", "messages"), [("train", 120), ("validation", 24), ("test", 24)])
def test_the_embedded_sample_is_whole_and_has_every_label_equally_often(split, messages):
    dataset = load(split, SAMPLE_DIR)
    assert (len(dataset), dataset.dropped) == (messages, [])
    assert np.bincount([example.label for example in dataset]).tolist() == [messages // 6] * 6
    assert all(example.segments[0].text.islower() for example in dataset)


def test_no_message_of_the_embedded_sample_stands_there_twice():
    messages = [text for split in ("train", "validation", "test") for text, _ in rows(load(split, SAMPLE_DIR))]
    assert len(set(messages)) == len(messages)


@needs_corpus
@pytest.mark.parametrize(("split", "messages"), [("train", 16_000), ("validation", 2_000), ("test", 2_000)])
def test_every_message_of_the_official_splits_is_read_and_can_be_encoded(split, messages, rng):
    dataset = load(split, CORPUS)
    assert (len(dataset), dataset.dropped) == (messages, [])
    some = [dataset[index] for index in rng.choice(messages, 500, replace=False)]
    encoded = TASK.encode(some, load_tokenizer(NANO), 512)
    assert (len(encoded), encoded.dropped, encoded.shortened) == (500, [], 0)
