"""A record's fields: texts and labels, and what is neither."""

import json

import pytest

from common.errors import UserError
from datasets.records import label, records, text


def only(path, line: str) -> tuple:
    """Where the record of a file of one line is, and the record."""
    path.write_text(line)
    (found,) = records(path, ["text"])
    return found


def test_text_is_stripped_and_may_be_empty_only_where_it_is_not_required():
    assert text({"t": " ünd \n"}, "t", "a:1") == "ünd"
    assert text({"t": " "}, "t", "a:1", required=False) == ""
    with pytest.raises(UserError, match="a:1: the field 't' is empty"):
        text({"t": " "}, "t", "a:1")


@pytest.mark.parametrize("value", [None, 3, 0.5, True, ["one"], {"a": "one"}, b"one", ["x" * 1000] * 1000])
def test_a_field_that_is_no_text_is_the_users_error_and_named_in_short(value):
    with pytest.raises(UserError, match="a:1: the field 't' must be text, not ") as caught:
        text({"t": value}, "t", "a:1", required=False)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("value", [r"\ud800", r"fine\udfff", r"\udc00\ud83d"])
def test_half_a_character_that_json_spells_is_the_users_error_for_it_cannot_be_tokenised(tmp_path, value):
    where, record = only(tmp_path / "a.jsonl", f'{{"text": "{value}"}}')
    with pytest.raises(UserError, match=r"a\.jsonl:1: the field 'text' holds half of a character \('\\ud"):
        text(record, "text", where)
    both = json.loads(r'{"text": "\ud83d\ude42"}')
    assert text(both, "text", where) == "🙂"


def test_a_value_as_deep_as_json_can_be_read_is_still_named(tmp_path):
    for depth in (10, 300, 900, 950, 990):
        try:
            where, record = only(tmp_path / "a.jsonl", '{"text": ' + "[" * depth + "]" * depth + "}")
        except UserError as error:
            assert "recursion" in str(error)
        else:
            with pytest.raises(UserError, match="must be text"):
                text(record, "text", where)


def test_a_label_is_given_by_its_name_or_its_number():
    assert [label(value, ("no", "yes"), "a:1") for value in ("no", " Yes ", 0, 1, "1")] == [0, 1, 0, 1, 1]


@pytest.mark.parametrize(
    "value", ["maybe", "", "2", "-1", "٠", "1.0", -1, 2, 1.0, True, None, ["no"], "x" * 10_000, "\ud800"]
)
def test_any_other_label_is_the_users_error(value):
    with pytest.raises(UserError, match="a:1: there is no label .*: the labels are no, yes") as caught:
        label(value, ("no", "yes"), "a:1")
    assert len(str(caught.value).encode()) < 300
