"""E2E: a meaning and its text as ids and labels, several texts of a meaning, every layout, and broken lines."""

import csv
import io
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from places import SHARED
from tiny import write_records

from common.errors import UserError
from datasets.encode import IGNORED, report
from datasets.example import WHOLE
from datasets.tasks import find
from datasets.tasks.e2e import FILES, FOLDER, SAMPLE_DIR, TASK, linearised, load, prompt
from gpt2_jittor.checkpoint.locate import NANO
from gpt2_jittor.checkpoint.tokenizer import load_tokenizer

CORPUS = SHARED / "e2e"
needs_corpus = pytest.mark.skipif(not CORPUS.is_dir(), reason=f"E2E itself is not in {CORPUS}")
END = 256
PAIRS = [
    ("name[Ox], eatType[pub]", "Ox is a pub."),
    ("name[Ox], eatType[pub]", 'A pub, "Ox".'),
    ("name[Yew]", "It is Yew.\nReally."),
]


def content(pairs) -> str:
    text = io.StringIO()
    csv.writer(text).writerows([("mr", "ref"), *pairs])
    return text.getvalue()


def write(path: Path, pairs=PAIRS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content(pairs), encoding="utf-8", newline="")
    return path


def write_zip(path: Path, **splits) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for split, pairs in splits.items():
            archive.writestr(f"{FOLDER}/{FILES[split]}.csv", content(pairs))
    return path


def pairs_of(dataset) -> list[tuple[str, str]]:
    return [tuple(segment.text for segment in example.segments) for example in dataset]


def test_the_text_and_its_end_token_are_scored_behind_the_meaning_and_another(tokenizer, tmp_path):
    write(tmp_path / "trainset.csv", [("name[a], food[b]", "hi")])
    (item,) = TASK.encode(load("train", tmp_path).examples, tokenizer, 100).items
    assert tokenizer.decode(item.input_ids.tolist()) == "name : a | food : b<|endoftext|> hi<|endoftext|>"
    # a space is 220, "h" the 71st behind "!", "i" the 72nd
    assert item.labels.tolist() == [IGNORED] * (len(item.input_ids) - 4) + [220, 71, 72, END]
    (used,) = TASK.encode_prompt(prompt("name[a], food[b]"), tokenizer, 100)
    np.testing.assert_array_equal(used, item.input_ids[: len(used)])
    assert len(used) == len(item.input_ids) - 4


@pytest.mark.parametrize(
    ("meaning", "read"),
    [
        # these two stand so in the LoRA repository's examples/NLG/data/e2e/test.txt and valid.txt
        (
            "name[Blue Spice], eatType[coffee shop], area[city centre]",
            "name : Blue Spice | Type : coffee shop | area : city centre",
        ),
        (
            "name[Alimentum], area[city centre], familyFriendly[no]",
            "name : Alimentum | area : city centre | family friendly : no",
        ),
        ("priceRange[over £30], customer rating[5 out of 5]", "price : over £30 | customer rating : 5 out of 5"),
        (" name[ Marrow & Thyme ] ,near[A, B] ", "name : Marrow & Thyme | near : A, B"),
        ("name : Ox | Type : pub", "name : Ox | Type : pub"),
        ("name[The : Ox], near[10 : 30]", "name : The : Ox | near : 10 : 30"),
    ],
)
def test_a_meaning_is_spelt_as_in_the_papers_repository(meaning, read):
    assert linearised(meaning) == read
    assert prompt(meaning).segments[0].text == read


@pytest.mark.parametrize("meaning", ["Ox", "name[Ox", "name[Ox] food[b]", "[Ox]", "name[Ox], pub", "a : | b : c", ""])
def test_what_is_no_meaning_is_told_with_what_one_is(meaning):
    with pytest.raises(UserError, match=r"^a meaning is name\[The Vaults\], food\[Thai\] and so on, not '"):
        linearised(meaning)


@pytest.mark.parametrize("text", ["name[a]," + " " * 200_000 + "x", " " * 200_000 + "x", "x " * 200_000])
def test_a_text_that_is_no_meaning_is_told_at_once(text):
    started = time.process_time()
    with pytest.raises(UserError):
        linearised(text)
    assert time.process_time() - started < 5  # by any way of parting its spaces it would be hours


def test_a_long_text_that_is_no_meaning_is_not_repeated_whole():
    with pytest.raises(UserError) as caught:
        linearised("x" * 5000)
    assert len(str(caught.value)) < 200


def test_each_text_is_an_example_and_all_texts_of_its_meaning_are_its_references(tmp_path):
    path = write(tmp_path / "testset_w_refs.csv", [PAIRS[0], PAIRS[2], PAIRS[1]])
    dataset = load("test", tmp_path)
    assert pairs_of(dataset) == [
        ("name : Ox | Type : pub", " Ox is a pub."),
        ("name : Yew", " It is Yew.\nReally."),
        ("name : Ox | Type : pub", ' A pub, "Ox".'),
    ]
    both = ("Ox is a pub.", 'A pub, "Ox".')
    assert [example.references for example in dataset] == [both, ("It is Yew.\nReally.",), both]
    assert [example.source for example in dataset] == [f"{path}:{line}" for line in (2, 3, 5)]


@pytest.mark.parametrize("layout", ["zip", "folder with the zip", "folder", "folder in a folder", "jsonl", "the hub's"])
def test_every_layout_holds_the_same(tmp_path, layout):
    place = tmp_path
    if layout == "zip":
        place = write_zip(tmp_path / "mine.zip", test=PAIRS)
    elif layout == "folder with the zip":
        write_zip(tmp_path / f"{FOLDER}.zip", test=PAIRS)
    elif layout == "folder":
        write(tmp_path / "testset_w_refs.csv")
    elif layout == "folder in a folder":
        write(tmp_path / FOLDER / "testset_w_refs.csv")
    elif layout == "jsonl":
        write_records(tmp_path / "test.jsonl", [{"mr": meaning, "ref": text} for meaning, text in PAIRS])
    else:
        (tmp_path / "default" / "test").mkdir(parents=True)
        names = ("meaning_representation", "human_reference")
        rows = [dict(zip(names, pair, strict=True)) for pair in PAIRS]
        write_records(tmp_path / "default" / "test" / "0000.parquet", rows)
    assert pairs_of(load("test", place)) == [(linearised(meaning), f" {text}") for meaning, text in PAIRS]


def test_a_zips_splits_are_its_files_and_its_lines_are_named(tmp_path):
    path = write_zip(tmp_path / "e2e-dataset.zip", train=PAIRS, validation=PAIRS[:1], test=PAIRS[2:])
    assert [len(load(split, path)) for split in ("train", "validation", "test")] == [3, 1, 1]
    assert load("test", path)[0].source == f"{path}/e2e-dataset/testset_w_refs.csv:2"


def test_a_single_file_is_parted_by_meanings(tmp_path):
    pairs = [(f"name[{number % 30}]", f"Text {number}.") for number in range(90)]
    parts = [load(split, write(tmp_path / "mine.csv", pairs)) for split in ("train", "validation", "test")]
    assert list(map(len, parts)) == [72, 9, 9]
    meanings = [{example.segments[0].text for example in part} for part in parts]
    assert len(set.union(*meanings)) == sum(map(len, meanings)) == 30
    assert all(len(example.references) == 3 for part in parts for example in part)


def test_all_of_a_single_file_is_read_as_what_is_not_parted(tmp_path):
    pairs = [(f"name[{number % 30}]", f"Text {number}.") for number in range(90)]
    whole = load(WHOLE, write(tmp_path / "mine.csv", pairs)).examples
    assert [example.segments[1].text for example in whole] == [f" {text}" for _, text in pairs]


def test_a_text_that_is_empty_is_left_out_and_named(tmp_path):
    path = write(tmp_path / "trainset.csv", [*PAIRS, ("name[A]", "  ")])
    dataset = load("train", tmp_path)
    assert len(dataset) == 3 and dataset.dropped == [f"{path}:6: the text is empty"]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([("Ox", "It is Ox.")], "FILE:2: a meaning is .*, not 'Ox'; mend or remove the line$"),
        ([PAIRS[0], ("name[A]", "b", "c")], "FILE:3: 3 fields where the header names 2: mend the line$"),
        ([PAIRS[0], ("", "b")], "FILE:3: the field 'mr' is empty"),
        ([("name[A]", "")], "has no text: give E2E's trainset.csv; the first: FILE:2: the text is empty$"),
        ([], "FILE is empty: give a file with records of mr, ref$"),
    ],
)
def test_a_broken_line_is_named(tmp_path, pairs, message):
    path = write(tmp_path / "trainset.csv", pairs)
    with pytest.raises(UserError, match=message.replace("FILE", str(path))) as caught:
        load("train", tmp_path)
    assert "\n" not in str(caught.value)


def test_a_broken_line_of_a_zip_is_named_and_an_empty_member_too(tmp_path):
    path = write_zip(tmp_path / "e2e-dataset.zip", train=[("Ox", "It is Ox.")], test=[])
    with pytest.raises(UserError, match="e2e-dataset.zip/e2e-dataset/trainset.csv:2: a meaning is"):
        load("train", path)
    with pytest.raises(UserError, match="has no text: give E2E's testset_w_refs.csv$"):
        load("test", path)
    with pytest.raises(UserError, match="has no member e2e-dataset/devset.csv: is it the publisher's file"):
        load("validation", path)


def test_other_columns_a_missing_file_and_no_folder_are_told(tmp_path):
    (tmp_path / "trainset.csv").write_text("MR\nname[A]\n")
    with pytest.raises(UserError, match="trainset.csv:1: the field 'mr' is missing: each record needs mr, ref$"):
        load("train", tmp_path)
    with pytest.raises(UserError, match="has none of devset.jsonl.*: give e2e-dataset.zip or its folder$"):
        load("validation", tmp_path)
    with pytest.raises(UserError, match="get its publisher's e2e-dataset.zip, from https://.* give it with data_dir$"):
        load("train", None)


def test_an_example_that_does_not_fit_is_dropped_and_a_prompt_told(tokenizer, tmp_path):
    write(tmp_path / "trainset.csv", [PAIRS[0], ("name[Yew]", "x" * 99)])
    encoded = TASK.encode(load("train", tmp_path).examples, tokenizer, 60)
    assert encoded.kept == [0] and encoded.dropped[0].endswith(":3: 112 tokens are the least of it, 60 fit")
    with pytest.raises(UserError, match="the prompt takes 25 tokens at least, 20 fit"):
        TASK.encode_prompt(prompt("name[Ox], food[toast]"), tokenizer, 20)


def test_the_sample_has_several_texts_of_each_meaning():
    for split, texts in (("train", 24), ("validation", 8), ("test", 8)):
        dataset = load(split, SAMPLE_DIR)
        assert len(dataset) == texts and not dataset.dropped
        assert all(len(example.references) == 2 for example in dataset)
    assert find("e2e") is TASK


@needs_corpus
def test_the_publishers_zip_has_the_numbers_that_it_states():
    for split, texts, meanings in (("train", 42061, 4862), ("validation", 4672, 547), ("test", 4693, 630)):
        dataset = load(split, CORPUS)
        assert (len(dataset), len({example.opening for example in dataset})) == (texts, meanings)
        assert not dataset.dropped
    data = TASK.encode(dataset.examples, load_tokenizer(NANO), 512)
    assert not data.dropped and not data.shortened and "4,693 examples, 4,693 sequences" in report(dataset, data)
