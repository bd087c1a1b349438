"""RTE: two sentences with one end token between them, every format, and what is wrong with broken lines."""

import json
from pathlib import Path

import numpy as np
import pytest
from places import SHARED
from tiny import write_records

from common.errors import UserError
from datasets.batches import collate
from datasets.encode import IGNORED
from datasets.tasks.rte import LABELS, SAMPLE_DIR, TASK, load, prompt
from gpt2_jittor.checkpoint.locate import NANO
from gpt2_jittor.checkpoint.tokenizer import load_tokenizer

CORPUS = SHARED / "rte"
needs_corpus = pytest.mark.skipif(not CORPUS.is_dir(), reason=f"RTE itself is not in {CORPUS}")
HEADER = "index\tsentence1\tsentence2\tlabel\n"
ROWS = [('It "rains".', "It is wet.", "entailment"), ("It rains.", "It snows.", "not_entailment")]
END = 256


def write(folder: Path, name: str, rows=ROWS) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".tsv":
        path.write_text(HEADER + "".join(f"{index}\t" + "\t".join(row) + "\n" for index, row in enumerate(rows)))
        return path
    names = ("sentence1", "sentence2", "label")
    records = [dict(zip(names, (*row[:2], LABELS.index(row[2])), strict=True)) for row in rows]
    return write_records(path, [row | {"idx": index} for index, row in enumerate(records)])


def rows(dataset) -> list[tuple[str, str, str]]:
    return [(*(segment.text for segment in example.segments), LABELS[example.label]) for example in dataset]


def test_one_end_token_parts_the_two_sentences_and_is_attended_to(tokenizer):
    examples = [prompt("a b", "c"), prompt("a", "bc<")]
    items = TASK.encode(examples, tokenizer, 100).items
    # "a" is byte 97, the 64th behind "!"; "<" is the 27th
    assert [item.input_ids.tolist() for item in items] == [[64, 220, 65, END, 66], [64, END, 65, 66, 27]]
    assert all(set(item.labels.tolist()) == {IGNORED} for item in items)
    batch = collate(TASK.encode([*examples, prompt("a", "b")], tokenizer, 100).items, pad_id=END)
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert batch.input_ids[2].tolist() == [64, END, 65, END, END]


def test_an_end_token_spelled_out_in_a_sentence_is_not_an_end_token(tokenizer):
    item = TASK.encode([prompt("<|endoftext|>", "<|endoftext|>")], tokenizer, 100)[0]
    assert np.flatnonzero(item.input_ids == END).tolist() == [13]
    assert len(item.input_ids) == 13 + 1 + 13


@pytest.mark.parametrize("name", ["dev.tsv", "dev.parquet", "rte/validation-00000-of-00001.parquet"])
def test_every_format_holds_the_same_pairs_and_dev_is_the_test_split(tmp_path, name):
    path = write(tmp_path, name)
    dataset = load("test", tmp_path)
    assert rows(dataset) == ROWS
    assert dataset[1].source == f"{path}:" + ("3" if path.suffix == ".tsv" else "row 2")


@pytest.mark.parametrize("name", ["dev.tsv", "mine.jsonl", "mine.jsonl.gz", "mine.parquet"])
def test_a_single_file_is_parted_so_that_no_text_is_in_two_splits_whatever_its_order(tmp_path, name, rng):
    pairs = [(f"Text {number % 30}.", f"Sentence {number}.", LABELS[number % 2]) for number in range(90)]
    file = write(tmp_path / "one", name, pairs)
    other = write(tmp_path / "other", "train.tsv", [pairs[index] for index in rng.permutation(90)])
    found = [rows(load(split, file)) for split in ("train", "validation", "test")]
    assert sorted(sum(found, [])) == sorted(pairs)
    texts = [{text for text, *_ in part} for part in found]
    assert list(map(len, texts)) == [24, 3, 3], "10 % of 30 texts are 3"
    assert len(set.union(*texts)) == 30
    assert [sorted(rows(load(split, other))) for split in ("train", "validation", "test")] == list(map(sorted, found))


def test_a_single_file_of_two_texts_cannot_be_parted_in_three(tmp_path):
    file = write(tmp_path, "dev.tsv")
    for split in ("train", "validation", "test"):
        with pytest.raises(UserError, match=f"{file}:2: too little data to set some of it apart"):
            load(split, file)


@pytest.mark.parametrize(("split", "file"), [("train", "train"), ("validation", "train"), ("test", "validation")])
def test_without_a_folder_the_split_comes_from_the_hub(tmp_path, monkeypatch, split, file):
    path, asked = write(tmp_path, "x.parquet"), []
    monkeypatch.setattr("datasets.tasks.rte.fetch", lambda *what, **how: asked.append((what, how)) or path)
    assert set(rows(load(split, None))) <= set(ROWS)
    assert asked == [(("nyu-mll/glue", f"rte/{file}-00000-of-00001.parquet"), {"repo_type": "dataset"})]


def test_train_and_validation_share_no_text_and_are_all_of_the_file_whatever_its_order(tmp_path, rng):
    pairs = [(f"Text {rng.integers(60)}.", f"Sentence {number}.", LABELS[number % 2]) for number in range(200)]
    shuffled = [pairs[index] for index in rng.permutation(200)]
    write(tmp_path / "one", "train.tsv", pairs)
    write(tmp_path / "other", "train.tsv", shuffled)
    train, validation = (rows(load(split, tmp_path / "one")) for split in ("train", "validation"))
    assert sorted(train + validation) == sorted(pairs)
    assert not {text for text, *_ in train} & {text for text, *_ in validation}
    assert len({text for text, *_ in validation}) == round(0.1 * len({text for text, *_ in pairs}))
    assert sorted(rows(load("validation", tmp_path / "other"))) == sorted(validation)


def test_the_prompt_of_use_has_the_ids_of_training_whole_or_cut(tokenizer):
    for length in (100, 20, 9, 3):
        trained = TASK.encode([prompt("It rained all night.", "It is wet.")], tokenizer, length)[0]
        (used,) = TASK.encode_prompt(TASK.prompt(" It rained all night.\n", "It is wet. "), tokenizer, length)
        np.testing.assert_array_equal(used, trained.input_ids)


@pytest.mark.parametrize(
    ("pair", "cut"),
    [
        ("abcdef|gh", {9: "abcdef|gh", 8: "abcde|gh", 5: "ab|gh", 4: "a|gh", 3: "a|g"}),
        ("ab|cdefgh", {9: "ab|cdefgh", 8: "ab|cdefg", 6: "ab|cde", 5: "a|cde", 4: "a|cd", 3: "a|c"}),
        ("abc|defg", {8: "abc|defg", 7: "ab|defg", 6: "ab|def", 5: "a|def"}),  # of two as long, the first loses more
    ],
)
def test_of_a_long_pair_the_longer_loses_its_end_and_the_separator_stays(tokenizer, pair, cut):
    example = prompt(*pair.split("|"))
    for length, text in cut.items():
        encoded = TASK.encode([example, prompt("a", "b")], tokenizer, length)
        first, second = text.split("|")
        assert encoded[0].input_ids.tolist() == [*tokenizer(first)["input_ids"], END, *tokenizer(second)["input_ids"]]
        assert encoded.shortened == (text != pair)


def test_a_pair_that_cannot_fit_is_dropped_from_training_and_refused_in_use(tokenizer, tmp_path):
    path = write(tmp_path, "dev.tsv", ROWS)
    with pytest.raises(UserError, match=f"none of the 2 examples can be used.*{path}:2: 3 tokens are the least of it"):
        TASK.encode(load("test", tmp_path).examples, tokenizer, 2)
    with pytest.raises(UserError, match="the prompt takes 3 tokens at least, 2 fit"):
        TASK.encode_prompt(prompt("ab", "c"), tokenizer, 2)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1\tIt rains.\tentailment", "3 fields where the header names 4"),
        ("1\tIt rains.\tIt is wet.\tperhaps", "there is no label 'perhaps': the labels are entailment, not_entailment"),
        ("1\tIt rains.\t \tentailment", "the field 'sentence2' is empty"),
        ("1\t\tIt rains.\tentailment", "the field 'sentence1' is empty"),
    ],
)
def test_a_broken_line_is_the_users_error_with_file_and_line(tmp_path, line, message):
    file = write(tmp_path, "train.tsv")
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(UserError, match=f"{file}:4: {message}"):
        load("train", tmp_path)


def test_a_hub_file_without_labels_is_the_users_error(tmp_path):
    from pyarrow import Table, parquet

    table = Table.from_pylist([{"sentence1": "It rains.", "sentence2": "It is wet.", "label": -1}])
    parquet.write_table(table, tmp_path / "dev.parquet")
    with pytest.raises(UserError, match=r"dev\.parquet:row 1: there is no label -1"):
        load("test", tmp_path)


def test_glues_test_file_has_no_labels_and_is_the_users_error():
    with pytest.raises(UserError, match=r"test\.tsv:1: the field 'label' is missing"):
        load("test", SAMPLE_DIR / "test.tsv")


@pytest.mark.parametrize("content", ["", "\n", HEADER])
def test_a_file_without_a_pair_is_the_users_error(tmp_path, content):
    (tmp_path / "train.tsv").write_text(content)
    for split in ("train", "validation"):
        with pytest.raises(UserError, match=r"train\.tsv is empty"):
            load(split, tmp_path)


def test_a_file_of_one_text_cannot_be_parted(tmp_path):
    write(tmp_path, "train.tsv", [("It rains.", "It is wet.", "entailment"), ("It rains.", "It snows.", "entailment")])
    with pytest.raises(UserError, match=r"train\.tsv:2: too little data to set some of it apart"):
        load("validation", tmp_path)


def test_superglues_files_are_read(tmp_path):
    lines = [{"premise": one, "hypothesis": two, "label": label, "idx": n} for n, (one, two, label) in enumerate(ROWS)]
    (tmp_path / "val.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert rows(load("test", tmp_path)) == ROWS


@pytest.mark.parametrize("folder", [".", "missing"])
def test_a_folder_without_the_split_is_told_what_was_looked_for(tmp_path, folder):
    write(tmp_path, "train.tsv")
    with pytest.raises(
        UserError, match=r"has none of dev\.jsonl, \.json, \.csv, \.tsv, \.parquet, val\.jsonl.*give RTE's dev file"
    ):
        load("test", tmp_path / folder)


@pytest.mark.parametrize(("split", "texts"), [("train", 27), ("validation", 3), ("test", 10)])
def test_the_embedded_sample_has_a_pair_of_either_label_for_each_text(split, texts):
    dataset = load(split, SAMPLE_DIR)
    assert dataset.dropped == []
    assert np.bincount([example.label for example in dataset]).tolist() == [texts, texts]
    assert len({text for text, *_ in rows(dataset)}) == texts


@needs_corpus
def test_every_pair_of_the_official_files_is_read():
    train, validation, test = (load(split, CORPUS) for split in ("train", "validation", "test"))
    assert (len(train) + len(validation), len(test)) == (2_490, 277)
    assert 200 < len(validation) < 300
    assert not {text for text, *_ in rows(train)} & {text for text, *_ in rows(validation)}


@needs_corpus
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_real_pairs_can_be_encoded_with_one_separator_each(split, rng):
    dataset, tokenizer = load(split, CORPUS), load_tokenizer(NANO)
    some = [dataset[index] for index in rng.permutation(len(dataset))[:500]]
    encoded = TASK.encode(some, tokenizer, 512)
    assert (len(encoded), encoded.dropped, encoded.shortened) == (len(some), [], 0)
    assert {int((item.input_ids == tokenizer.eos_token_id).sum()) for item in encoded.items} == {1}
