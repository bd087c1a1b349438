"""Dolly: the prompt and its response, what is cut of a long one, splits by a hash, and broken records."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from places import SHARED

from common.errors import UserError
from datasets.encode import IGNORED, report
from datasets.tasks.dolly import FILE, SAMPLE_DIR, TASK, load, prompt
from gpt2_jittor.checkpoint.locate import NANO
from gpt2_jittor.checkpoint.tokenizer import load_tokenizer

CORPUS = SHARED / "dolly"
needs_corpus = pytest.mark.skipif(not CORPUS.is_dir(), reason=f"Dolly itself is not in {CORPUS}")
END = 256
SPLITS = ("train", "validation", "test")


def record(instruction: str, response: str, context: str = "", **more) -> dict:
    return {"instruction": instruction, "context": context, "response": response} | more


def write(folder: Path, records, name: str = FILE) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(json.dumps(item) + "\n" for item in records).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def all_of(place: Path) -> list:
    return [example for split in SPLITS for example in load(split, place)]


def one(folder: Path, *fields: str):
    """The example of a record, among others that make a file of it."""
    others = [record(f"other {number}", "x") for number in range(5)]
    write(folder, [record(*fields), *others])
    (example,) = [example for example in all_of(folder) if example.source.endswith(":1")]
    return example


def text_of(item, tokenizer) -> str:
    return tokenizer.decode(item.input_ids.tolist())


def scored(item) -> list[int]:
    return [token for token in item.labels.tolist() if token != IGNORED]


def test_the_response_and_its_end_token_are_scored_and_nothing_else(tokenizer, tmp_path):
    item = TASK.encode([one(tmp_path, " Say hi. ", "hi\n", " To Ann. ")], tokenizer, 200)[0]
    assert text_of(item, tokenizer) == (
        "### Instruction:\nSay hi.\n\n### Context:\nTo Ann.\n\n### Response:\nhi<|endoftext|>"
    )
    # "h" is byte 104, the 71st behind "!", and "i" the 72nd
    assert item.labels.tolist() == [IGNORED] * (len(item.input_ids) - 3) + [71, 72, END]
    assert item.input_ids[-3:].tolist() == [71, 72, END]
    assert item.input_ids.tolist().count(END) == 1


def test_without_a_context_its_heading_is_left_out(tokenizer, tmp_path):
    item = TASK.encode([one(tmp_path, "Say hi.", "hi", " \n")], tokenizer, 200)[0]
    assert text_of(item, tokenizer) == "### Instruction:\nSay hi.\n\n### Response:\nhi<|endoftext|>"


def test_the_response_is_the_examples_reference(tmp_path):
    assert one(tmp_path, "Say hi.", " hi ").references == ("hi",)


@pytest.mark.parametrize("context", ["", "To Ann.", "Line one.\n\nLine two."])
def test_the_prompt_of_use_has_the_ids_of_training(tokenizer, tmp_path, context):
    example = one(tmp_path, "Say hi.", "hi", context)
    trained = TASK.encode([example], tokenizer, 500)[0]
    (used,) = TASK.encode_prompt(TASK.prompt("Say hi. ", f" {context}"), tokenizer, 500)
    np.testing.assert_array_equal(used, trained.input_ids[: len(used)])
    assert scored(trained) == trained.input_ids[len(used) :].tolist(), "what follows it is what is scored"
    assert example.given.segments == TASK.prompt("Say hi.", context).segments


def test_an_end_token_spelled_out_in_a_record_is_not_an_end_token(tokenizer, tmp_path):
    item = TASK.encode([one(tmp_path, *["<|endoftext|>"] * 3)], tokenizer, 500)[0]
    assert np.flatnonzero(item.input_ids == END).tolist() == [len(item.input_ids) - 1]


@pytest.mark.parametrize(
    ("context", "response", "cut"),
    [
        (
            "context",
            "response",
            {
                0: ("context", "response<|endoftext|>"),
                1: ("context", "response"),
                2: ("context", "respons"),
                3: ("contex", "respons"),
                8: ("cont", "resp"),
                13: ("c", "re"),
                14: ("c", "r"),
            },
        ),
        (
            "contextual",
            "hi",
            {
                7: ("con", "hi<|endoftext|>"),
                8: ("co", "hi<|endoftext|>"),
                9: ("co", "hi"),
                11: ("c", "h"),
            },
        ),
    ],
)
def test_of_a_long_record_the_longer_part_is_cut_first_and_a_cut_response_loses_its_end_token(
    tokenizer, tmp_path, context, response, cut
):
    example = one(tmp_path, "Do.", response, context)
    whole = "### Instruction:\nDo.\n\n### Context:\n{}\n\n### Response:\n{}"
    length = len(whole.format(context, response)) + 1
    for excess, parts in cut.items():
        encoded = TASK.encode([example], tokenizer, length - excess)
        assert text_of(encoded[0], tokenizer) == whole.format(*parts)
        assert tokenizer.decode(scored(encoded[0])) == parts[1]
        assert encoded.shortened == (excess > 0)
    least = length - max(cut)
    with pytest.raises(UserError, match=rf"{FILE}:1: {least} tokens are the least of it, {least - 1} fit"):
        TASK.encode([example], tokenizer, least - 1)


def test_of_a_long_prompt_the_context_is_cut_and_what_is_still_too_long_is_refused(tokenizer):
    (ids,) = TASK.encode_prompt(prompt("Do.", "abcdef"), tokenizer, 55)
    assert tokenizer.decode(ids) == "### Instruction:\nDo.\n\n### Context:\nabcd\n\n### Response:\n"
    with pytest.raises(UserError, match="the prompt takes 36 tokens at least, 35 fit"):
        TASK.encode_prompt(prompt("Do."), tokenizer, 35)


@pytest.mark.parametrize("name", [FILE, f"{FILE}.gz", "mine.jsonl"])
def test_a_folder_or_a_file_packed_or_not_holds_the_same_records(tmp_path, name):
    path = write(tmp_path, [record(f"instruction {number}", "x", category="open_qa") for number in range(9)], name)
    place = path if name == "mine.jsonl" else tmp_path
    assert sorted(example.source for example in all_of(place)) == [f"{path}:{line}" for line in range(1, 10)]


def test_a_parquet_file_keeps_its_contexts(tmp_path):
    from pyarrow import Table, parquet

    parquet.write_table(
        Table.from_pylist([record(str(n), "x", f"context {n}") for n in range(5)]), tmp_path / "x.parquet"
    )
    found = {example.segments[2].text for example in all_of(tmp_path / "x.parquet")}
    assert found == {f"context {n}" for n in range(5)}


@pytest.mark.parametrize("split", SPLITS)
def test_without_a_folder_the_file_comes_from_the_hub(tmp_path, monkeypatch, split):
    path, asked = write(tmp_path, [record(f"instruction {number}", "x") for number in range(9)]), []
    monkeypatch.setattr("datasets.tasks.dolly.fetch", lambda *what, **how: asked.append((what, how)) or path)
    assert len(load(split, None)) == {"train": 7}.get(split, 1)
    assert asked == [(("databricks/databricks-dolly-15k", "databricks-dolly-15k.jsonl"), {"repo_type": "dataset"})]


def test_the_splits_share_no_instruction_and_are_all_of_the_file_whatever_its_order(tmp_path, rng):
    items = [record(f"instruction {rng.integers(150)}", f"response {number}") for number in range(300)]
    write(tmp_path / "one", items)
    write(tmp_path / "other", [items[index] for index in rng.permutation(300)])
    found = {split: load(split, tmp_path / "one") for split in SPLITS}
    assert sorted(example.references[0] for split in SPLITS for example in found[split]) == sorted(
        item["response"] for item in items
    )
    instructions = [{example.segments[0].text for example in found[split]} for split in SPLITS]
    distinct = {item["instruction"] for item in items}
    assert sum(map(len, instructions)) == len(set.union(*instructions)) == len(distinct)
    assert len(instructions[1]) == len(instructions[2]) == round(0.03 * len(distinct))
    for split in SPLITS:
        other = load(split, tmp_path / "other")
        assert {example.references for example in other} == {example.references for example in found[split]}


def test_duplicates_and_records_without_an_instruction_or_a_response_are_dropped_by_name(tmp_path, tokenizer):
    items = [
        record("a", "1"),
        record("b", "2"),
        record(" ", "3"),
        record("c", " "),
        record("a ", "1"),
        record("a", "9"),
    ]
    path = write(tmp_path, [*items, record("c", "4", "5")])
    dataset = load("train", tmp_path)
    assert dataset.dropped == [
        f"{path}:3: the instruction or the response is empty",
        f"{path}:4: the instruction or the response is empty",
        f"{path}:5: the same as {path}:1",
    ]
    assert [example.references[0] for example in sorted(all_of(tmp_path), key=lambda item: item.source)] == list("1294")
    assert f"dropped {path}:3" in report(dataset, TASK.encode(dataset.examples, tokenizer, 100))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"instruction": "a", "context": ""', "this is not JSON"),
        ('{"instruction": "a", "context": ""}', "the field 'response' is missing"),
        ('{"instruction": "a", "context": 7, "response": "b"}', "the field 'context' must be text, not 7"),
        ('{"instruction": null, "context": "", "response": "b"}', "the field 'instruction' must be text, not None"),
        ('{"instruction": ["a"], "context": "", "response": "b"}', "the field 'instruction' must be text"),
        (r'{"instruction": "a", "context": "", "response": "b\ud800"}', "the field 'response' holds half of a char"),
    ],
)
def test_a_broken_record_is_the_users_error_with_file_and_line(tmp_path, line, message):
    path = write(tmp_path, [record("a", "1"), record("b", "2")])
    path.write_text(path.read_text() + line + "\n" + json.dumps(record("c", "3")))
    with pytest.raises(UserError, match=f"{path}:3: {message}"):
        load("train", tmp_path)


def test_a_file_in_which_nothing_can_be_used_is_the_users_error(tmp_path):
    path = write(tmp_path, [record("", "x"), record("x", "")])
    with pytest.raises(UserError, match=f"{FILE} has no instruction with a response.*the first: {path}:1: "):
        load("train", tmp_path)
    write(tmp_path, [])
    with pytest.raises(UserError, match=f"{FILE} is empty"):
        load("train", tmp_path)
    write(tmp_path, [record("a", "1"), record("b", "2")])
    with pytest.raises(UserError, match="too little data to set some of it apart"):
        load("train", tmp_path)


def test_a_context_may_be_null_or_absent(tmp_path):
    rows = [record("a", "1"), record("b", "2") | {"context": None}, record("c", "3")]
    del rows[2]["context"]
    write(tmp_path, rows + [record(f"more {n}", str(n)) for n in range(9)])
    prompts = ["".join(segment.text for segment in example.given.segments) for example in all_of(tmp_path)]
    assert [prompt.count("### Context:") for prompt in prompts] == [0] * 12


@pytest.mark.parametrize("folder", [".", "missing"])
def test_a_folder_without_the_file_is_told_what_was_looked_for(tmp_path, folder):
    with pytest.raises(UserError, match=rf"has none of {FILE}, \.json, \.csv, \.tsv, \.parquet: give Dolly's {FILE}"):
        load("train", tmp_path / folder)


def test_the_embedded_sample_is_whole_and_a_third_of_it_has_a_context(tokenizer):
    examples = all_of(SAMPLE_DIR)
    assert len(examples) == 80
    assert load("train", SAMPLE_DIR).dropped == []
    assert sum("### Context:\n" in [segment.text for segment in example.segments] for example in examples) == 27
    assert len({example.segments[0].text for example in examples}) == 80


@needs_corpus
def test_every_real_record_but_the_duplicates_is_in_one_split_and_can_be_encoded(rng):
    found = {split: load(split, CORPUS) for split in SPLITS}
    assert [len(found[split].dropped) for split in SPLITS] == [15] * 3
    assert all("the same as" in reason for reason in found["train"].dropped)
    assert sum(map(len, found.values())) == 15_015 - 15
    assert all(400 < len(found[split]) < 500 for split in ("validation", "test"))
    examples = [example for split in SPLITS for example in found[split]]
    some = [examples[index] for index in rng.choice(len(examples), 500, replace=False)]
    tokenizer = load_tokenizer(NANO)
    encoded = TASK.encode(some, tokenizer, 512)
    assert len(encoded) + len(encoded.dropped) == 500
    assert len(encoded.dropped) < 5, "only where the instruction alone is too long"
    assert max(encoded.lengths) <= 512
    for item in encoded.items:
        answer = np.flatnonzero(item.labels != IGNORED)
        assert answer.tolist() == list(range(answer[0], len(item.input_ids))), "from its first token to the last"
