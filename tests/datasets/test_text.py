"""Plain text: which words end up in which split."""

import os
import re
import socket

import pytest
from places import ROOT
from transformers import AutoTokenizer

from common.errors import UserError
from datasets import tasks
from datasets.encode import report
from datasets.tasks.text import beginning, load
from gpt2_jittor.checkpoint.tokenizer import add_tokens, load_tokenizer

NANO = ROOT / "checkpoints" / "gpt2-nano"
END = "<|endoftext|>"


def texts(dataset) -> list[str]:
    return ["".join(segment.text for segment in example.segments) for example in dataset.examples]


def write(folder, **files: str) -> None:
    for name, text in files.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")


def test_every_file_is_a_document_in_order_of_name_and_validation_txt_is_set_apart(tmp_path):
    write(tmp_path, b="second", a="first\n\nstill the first\n", validation="held out", test="examined")
    assert texts(load("train", tmp_path)) == ["first\n\nstill the first", "second"]
    assert texts(load("validation", tmp_path)) == ["held out"]
    assert texts(load("test", tmp_path)) == ["examined"]


def test_a_separator_line_parts_a_file_and_each_document_knows_its_line(tmp_path):
    write(tmp_path, a="one\nmore\n<|endoftext|>\ntwo <|endoftext|> still two\n<|endoftext|>\n", validation="v")
    dataset = load("train", tmp_path)
    assert texts(dataset) == ["one\nmore", "two <|endoftext|> still two"]
    assert [example.source for example in dataset.examples] == [f"{tmp_path}/a.txt:1", f"{tmp_path}/a.txt:4"]
    assert dataset.dropped == []


def test_empty_documents_are_dropped_by_name(tmp_path):
    write(tmp_path, a="one\n<|endoftext|>\n \n<|endoftext|>\ntwo", b="", validation="v")
    dataset = load("train", tmp_path)
    assert texts(dataset) == ["one", "two"]
    assert dataset.dropped == [
        f"{tmp_path}/a.txt:3: an empty document",
        f"{tmp_path}/b.txt:1: an empty document",
    ]


@pytest.mark.parametrize(("documents", "held_out"), [(2, 1), (99, 1), (250, 2)])
def test_the_last_hundredth_of_the_documents_is_held_out_and_one_at_least(tmp_path, documents, held_out):
    words = [f"document {number}" for number in range(documents)]
    write(tmp_path, a="\n<|endoftext|>\n".join(words))
    assert texts(load("train", tmp_path)) == words[:-held_out]
    assert texts(load("validation", tmp_path)) == words[-held_out:]


def test_a_single_document_is_parted_between_paragraphs_near_its_last_twentieth(tmp_path):
    paragraphs = [f"Paragraph {number:02}\nwith two lines." for number in range(40)]
    file = tmp_path / "book.md"
    file.write_text("\n\n".join(paragraphs), encoding="utf-8")
    train, validation = load("train", file), load("validation", file)
    # 1,158 characters: 95 % of them end inside paragraph 37, which begins on line 37 * 3 + 1
    assert texts(train) == ["\n\n".join(paragraphs[:37])]
    assert texts(validation) == ["\n\n".join(paragraphs[37:])]
    assert validation.examples[0].source == f"{file}:112"
    assert not train.examples[0].segments[0].end, "no end token where the document goes on"


def test_a_text_to_be_measured_on_needs_no_text_to_learn_from(tmp_path):
    write(tmp_path, test="examined")
    assert texts(load("test", tmp_path)) == ["examined"]


@pytest.mark.parametrize(("split", "message"), [("test", "has no test.txt"), ("train", "too little text")])
def test_what_cannot_be_parted_is_the_users_error(tmp_path, split, message):
    write(tmp_path, a="x")
    with pytest.raises(UserError, match=message):
        load(split, tmp_path)


def test_without_a_folder_or_without_text_in_it_the_error_says_what_to_give(tmp_path):
    with pytest.raises(UserError, match="data_dir"):
        load("train", None)
    with pytest.raises(UserError, match="has no .txt to learn from"):
        load("train", tmp_path)
    write(tmp_path, a="\n")
    with pytest.raises(UserError, match=r"there is no text in .*a\.txt"):
        load("train", tmp_path)


def test_bytes_that_are_not_utf8_are_reported_with_their_line(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"fine\ncaf\xe9\n")
    with pytest.raises(UserError, match=r"a\.txt:2: this is not UTF-8"):
        load("train", tmp_path)


def test_a_byte_order_mark_and_windows_line_ends_are_not_part_of_the_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    write(tmp_path, validation="v")
    assert texts(load("train", tmp_path)) == ["one\ntwo"]


def test_a_prompt_is_given_and_not_ended():
    (segment,) = beginning("Once upon").segments
    assert (segment.text, segment.scored, segment.end) == ("Once upon", False, False)


@pytest.mark.parametrize("added", [(), ("<USER>", "<END>")])
def test_what_is_learnt_of_a_file_are_transformers_ids_of_it(tmp_path, rng, added):
    pieces = ["A story", " of tea. ", END, f" {END} ", "\n", "\n\n", "\t", "<USER>", "<END>", "<|endof", "你好。"]
    text = "Once" + "".join(rng.choice(pieces, 3000)) + " upon."
    text = re.sub(rf"(?m)^(?=\s*{re.escape(END)}\s*$)", ".", text)  # alone on its line it parts documents
    write(tmp_path, a=text, b=f"the end{END}", validation="v")
    tokenizer, reference = load_tokenizer(NANO), AutoTokenizer.from_pretrained(NANO)
    add_tokens(tokenizer, added)
    reference.add_tokens(list(added), special_tokens=True)
    task = tasks.find("text")
    dataset = task.load("train", tmp_path)
    encoded = task.encode(dataset.examples, tokenizer, 1 << 20)
    expected = [*reference(text)["input_ids"], tokenizer.eos_token_id, *reference(f"the end{END}")["input_ids"]]
    expected += [tokenizer.eos_token_id] * (tokenizer.eos_token != END)
    assert encoded[0].input_ids.tolist() == expected
    counts = {name: text.count(name) + (name == END) for name in (END, *added)}
    said = report(dataset, encoded)
    assert all(f"{count:,} {name}" in said for name, count in counts.items()), said


@pytest.mark.parametrize("task", ["text", "imdb"])
def test_special_tokens_in_a_prompt_are_text(task):
    tokenizer, task = load_tokenizer(NANO), tasks.find(task)
    (ids,) = task.encode_prompt(task.prompt(f"Hello {END} there"), tokenizer, 99)
    assert tokenizer.eos_token_id not in ids and tokenizer.decode(ids) == f"Hello {END} there"


@pytest.mark.parametrize("name", ["dailydialog", "squad", "imdb", "dolly", "emotion", "rte", "e2e"])
def test_special_tokens_in_the_data_of_other_tasks_are_text(name):
    task = tasks.find(name)
    assert not any(segment.special for example in task.load("train", task.sample) for segment in example.segments)


@pytest.mark.parametrize("between", ["\n", " ", ""])
def test_what_is_held_out_of_a_single_document_begins_behind_an_end_token(tmp_path, between):
    write(tmp_path, a=between.join(f"Story {number} is about tea.{END}" for number in range(60)))
    (train,), (validation,) = texts(load("train", tmp_path)), texts(load("validation", tmp_path))
    assert train.endswith(END) and validation.startswith("Story ") and validation.endswith(END)
    assert (train.count(END), validation.count(END)) == (57, 3)


@pytest.mark.parametrize("token", [END, "<USER>", "[SEP]"])
def test_no_special_token_is_cut_where_some_text_is_held_out(tmp_path, token):
    for length in range(200, 260):
        write(tmp_path, a="x" * length + token + "y" * 9)
        parts = [*texts(load("train", tmp_path)), *texts(load("validation", tmp_path))]
        assert "".join(parts).count(token) == sum(part.count(token) for part in parts) == 1


def test_txt_in_any_case_is_read_and_all_else_in_a_folder_is_counted_and_named(tmp_path):
    write(tmp_path, b="two")
    (tmp_path / "A.TXT").write_text("one")
    (tmp_path / "Validation.Txt").write_text("v")
    (tmp_path / "VALIDATION.TXT").write_text("w")
    assert load("train", tmp_path).notes == []
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "c.txt").write_text("never read")
    for name in (".hidden.txt", "notes.md", "text.txt.gz", "._b.txt"):
        (tmp_path / name).write_bytes(b"\xff")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "linked.txt").symlink_to(tmp_path / "b.txt")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "z.txt"))
    dataset = load("train", tmp_path)
    assert texts(dataset) == ["one", "two", "two"]
    assert texts(load("validation", tmp_path)) == ["w", "v"]
    listed = "._b.txt, .hidden.txt, gone.txt (no regular file), notes.md, pipe.txt (no regular file), ..."
    assert dataset.notes == [f"skipped 8 that are no .txt files or hidden: {listed}"]
    listening.close()


def test_where_nothing_is_read_what_was_skipped_is_named(tmp_path):
    (tmp_path / "book.md").write_text("a")
    with pytest.raises(UserError, match="has no .txt to learn from: .*; skipped 1 that are no .txt files .*: book.md$"):
        load("train", tmp_path)
