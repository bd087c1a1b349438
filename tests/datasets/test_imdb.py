"""IMDB: reviews as text, every layout they come in, duplicates, and validation set apart."""

import time
from pathlib import Path

import numpy as np
import pytest
from places import SHARED
from tiny import write_records

from common.errors import UserError
from datasets.tasks.imdb import SAMPLE_DIR, TASK, clean, load
from gpt2_jittor.checkpoint.locate import NANO
from gpt2_jittor.checkpoint.tokenizer import load_tokenizer

CORPUS = SHARED / "imdb"
needs_corpus = pytest.mark.skipif(not CORPUS.is_dir(), reason=f"IMDB itself is not in {CORPUS}")
REVIEWS = ["Good.<br /><br />Very good.", "Awful.", "Fine, I'd say."]
CLEANED = ["Good.\nVery good.", "Awful.", "Fine, I'd say."]
END = 256


def write(folder: Path, name: str, reviews=REVIEWS) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".txt":
        path.write_text(reviews)
        return path
    records = [{"text": review, "label": index % 2} for index, review in enumerate(reviews)]
    return write_records(path, records)


def texts(dataset) -> list[str]:
    return [example.segments[0].text for example in dataset]


@pytest.mark.parametrize("by_file", [False, True])
def test_kaggles_file_is_parted_into_the_three_splits(tmp_path, by_file):
    reviews = [f'Review {number}, "quoted".<br /><br />The end.' for number in range(30)]
    lines = [f'"{review.replace(chr(34), 2 * chr(34))}",positive' for review in reviews]
    path = tmp_path / "IMDB Dataset.csv"
    path.write_text("\n".join(["review,sentiment", *lines]) + "\n")
    splits = [texts(load(split, path if by_file else tmp_path)) for split in ("train", "validation", "test")]
    assert [len(split) for split in splits] == [24, 3, 3]
    assert sorted(sum(splits, [])) == sorted(clean(review) for review in reviews)


@pytest.mark.parametrize(
    ("review", "cleaned"),
    [
        ("Good.<br /><br />Very good.", "Good.\nVery good."),
        ("<br>Good. <BR/> \n<br  />\tVery good.<br />", "Good.\nVery good."),
        ("  3 < 4, <i>really</i>\n\nand <brave>. ", "3 < 4, <i>really</i>\n\nand <brave>."),
        ("<br /> <br />", ""),
    ],
)
def test_line_breaks_of_html_become_line_ends_and_nothing_else_changes(review, cleaned):
    assert clean(review) == cleaned


@pytest.mark.parametrize("review", [" " * 100_000 + "x", "<br " * 50_000, "<br" + " " * 100_000, "<br /> " * 50_000])
def test_cleaning_takes_no_time_whatever_the_review(review):
    start = time.perf_counter()
    clean(review)
    assert time.perf_counter() - start < 1  # milliseconds; with a pattern that tries every length it was many minutes


def test_reviews_are_scored_from_end_to_end_and_an_end_token_follows_each(tokenizer, tmp_path):
    write(tmp_path, "test.jsonl", ["ab", "c<br />d"])
    (item,) = TASK.encode(load("test", tmp_path).examples, tokenizer, 100).items
    # "a" is byte 97, the 64th behind "!"; a line end is 198
    assert item.input_ids.tolist() == [64, 65, END, 66, 198, 67, END]
    np.testing.assert_array_equal(item.labels, item.input_ids)


def test_an_end_token_spelled_out_in_a_review_is_not_an_end_token(tokenizer, tmp_path):
    write(tmp_path, "test.jsonl", ["<|endoftext|>"])
    (item,) = TASK.encode(load("test", tmp_path).examples, tokenizer, 100).items
    assert np.flatnonzero(item.input_ids == END).tolist() == [13]


def test_the_prompt_of_use_has_the_ids_with_which_a_review_begins(tokenizer, tmp_path):
    write(tmp_path, "test.jsonl", ["The film is good."])
    (item,) = TASK.encode(load("test", tmp_path).examples, tokenizer, 100).items
    (used,) = TASK.encode_prompt(TASK.prompt("The film"), tokenizer, 100)
    assert used.tolist() == item.input_ids[:8].tolist()


@pytest.mark.parametrize(
    "name", ["test.jsonl", "test.jsonl.gz", "test.parquet", "plain_text/test-00000-of-00001.parquet"]
)
def test_every_format_holds_the_same_reviews(tmp_path, name):
    path = write(tmp_path, name)
    dataset = load("test", tmp_path)
    assert texts(dataset) == CLEANED
    assert dataset[2].source == f"{path}:" + ("row 3" if path.suffix == ".parquet" else "3")


@pytest.mark.parametrize("root", [".", "aclImdb"])
def test_the_publishers_folders_are_read_file_by_file(tmp_path, root):
    for name, review in zip(("pos/0_9", "neg/0_2", "pos/1_8", "unsup/0_0"), [*REVIEWS, "unused"], strict=True):
        write(tmp_path / root / "test", f"{name}.txt", review)
    write(tmp_path / root / "test", "urls_pos.txt", "http://example.com")
    dataset = load("test", tmp_path)
    assert texts(dataset) == [CLEANED[0], CLEANED[2], CLEANED[1]]
    names = ("pos/0_9", "pos/1_8", "neg/0_2")
    assert [example.source for example in dataset] == [str(tmp_path / root / f"test/{name}.txt") for name in names]


@pytest.mark.parametrize(("split", "file"), [("train", "train"), ("validation", "train"), ("test", "test")])
def test_without_a_folder_the_split_comes_from_the_hub(tmp_path, monkeypatch, split, file):
    path, asked = write(tmp_path, "x.parquet"), []
    monkeypatch.setattr("datasets.tasks.imdb.fetch", lambda *what, **how: asked.append((what, how)) or path)
    assert len(load(split, None)) == {"train": 2, "validation": 1, "test": 3}[split]
    assert asked == [(("stanfordnlp/imdb", f"plain_text/{file}-00000-of-00001.parquet"), {"repo_type": "dataset"})]


def test_train_and_validation_share_nothing_and_are_all_of_the_file_whatever_its_order(tmp_path, rng):
    reviews = [f"Review {number}." for number in range(200)]
    write(tmp_path / "one", "train.jsonl", reviews)
    write(tmp_path / "other", "train.jsonl.gz", [reviews[index] for index in rng.permutation(200)])
    train, validation = (texts(load(split, tmp_path / "one")) for split in ("train", "validation"))
    assert sorted(train + validation) == sorted(reviews)
    assert len(validation) == round(0.03 * 200)
    assert sorted(texts(load("validation", tmp_path / "other"))) == sorted(validation)


@pytest.mark.parametrize("name", ["test.jsonl", "mine.jsonl.gz", "mine.parquet"])
def test_a_single_file_is_parted_so_that_no_review_is_in_two_splits_whatever_its_order(tmp_path, name, rng):
    reviews = [f"Review {number}." for number in range(60)]
    file = write(tmp_path / "one", name, [*reviews, "Review 3.<br />"])
    other = write(tmp_path / "other", "mine.jsonl", [reviews[index] for index in rng.permutation(60)])
    found = [texts(load(split, file)) for split in ("train", "validation", "test")]
    assert sorted(sum(found, [])) == sorted(reviews)
    assert list(map(len, found)) == [48, 6, 6], "10 % of 60 reviews are 6"
    assert [sorted(texts(load(split, other))) for split in ("train", "validation", "test")] == list(map(sorted, found))


@pytest.mark.parametrize("name", ["train.jsonl", "train.parquet"])
def test_reviews_that_stand_there_twice_or_are_empty_are_dropped_by_name(tmp_path, name):
    path = write(tmp_path, name, ["Good.<br />Yes.", "Awful.", " Good.<br/><br/>Yes.", "<br />", "Fine."])
    row = "row " * (path.suffix == ".parquet")
    dropped = [f"{path}:{row}3: the same as {path}:{row}1", f"{path}:{row}4: an empty review"]
    train, validation = load("train", tmp_path), load("validation", tmp_path)
    assert train.dropped == validation.dropped == dropped
    assert sorted(texts(train) + texts(validation)) == ["Awful.", "Fine.", "Good.\nYes."]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{'text': 'Good.'}", "this is not JSON"),
        ('{"comment": "Good."}', "the field 'text' is missing"),
        ('{"text": null}', "the field 'text' must be text, not None"),
        (r'{"text": "Good \ud800"}', "the field 'text' holds half of a character"),
    ],
)
def test_a_broken_record_is_the_users_error_with_file_and_line(tmp_path, line, message):
    path = write(tmp_path, "train.jsonl")
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(UserError, match=f"{path}:4: {message}"):
        load("train", tmp_path)


def test_a_review_that_is_not_utf8_is_reported_with_its_file(tmp_path):
    path = write(tmp_path, "train/pos/0_9.txt", "Good.")
    path.write_bytes(b"Tr\xe8s bon.")
    with pytest.raises(UserError, match=f"{path}:1: this is not UTF-8"):
        load("train", tmp_path)


@pytest.mark.parametrize("split", ["train", "test"])
def test_files_and_folders_without_a_review_are_the_users_error(tmp_path, split):
    with pytest.raises(UserError, match=rf"has none of {split}\.jsonl, .*give aclImdb's folder with {split}/pos"):
        load(split, tmp_path)
    path = write(tmp_path, f"{split}.jsonl", [])
    with pytest.raises(UserError, match=rf"{split}\.jsonl is empty"):
        load(split, tmp_path)
    write(tmp_path, f"{split}.jsonl", ["<br />"])
    with pytest.raises(UserError, match=rf"has no review for {split}.*the first: {path}:1: an empty review"):
        load(split, tmp_path)
    (tmp_path / split / "pos").mkdir(parents=True)
    with pytest.raises(UserError, match=rf"{tmp_path} has no review for {split}: give aclImdb's folder"):
        load(split, tmp_path)


@pytest.mark.parametrize(("split", "reviews"), [("train", 58), ("validation", 2), ("test", 20)])
def test_the_embedded_sample_is_whole(split, reviews):
    dataset = load(split, SAMPLE_DIR)
    assert (len(dataset), dataset.dropped) == (reviews, [])
    assert not any("<br" in text for text in texts(dataset))


@needs_corpus
@pytest.mark.parametrize(("name", "distinct"), [("train", 24_902), ("test", 24_801)])
def test_every_real_review_is_read_once_and_can_be_encoded(name, distinct, rng):
    splits = ["train", "validation"] if name == "train" else ["test"]
    found = [load(split, CORPUS) for split in splits]
    assert [len(dataset.dropped) for dataset in found] == [25_000 - distinct] * len(splits)
    examples = [example for dataset in found for example in dataset]
    assert len({example.segments[0].text for example in examples}) == len(examples) == distinct
    assert not any("<br" in example.segments[0].text for example in examples)
    some = [examples[index] for index in rng.choice(distinct, 500, replace=False)]
    encoded = TASK.encode(some, load_tokenizer(NANO), 512)
    assert set(encoded.lengths[:-1]) == {512}
    assert encoded.scored == encoded.tokens - len(encoded)
