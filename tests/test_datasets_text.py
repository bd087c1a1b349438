"""Plain text: which words end up in which split."""

import pytest

from common.errors import UserError
from datasets.text import beginning, load


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
    with pytest.raises(UserError, match="--data-dir"):
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
