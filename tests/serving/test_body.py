"""Bodies: what is JSON and what is not, and fields that are read once, bounded, or refused by name."""

import json

import pytest

from serving.body import Fields, parse
from serving.errors import ApiError


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[1]", "must be a JSON object"),
        (b'"text"', "must be a JSON object"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "Infinity"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"a": {"b": 1, "b": 1}}', "twice"),
        (b'{"a": "\\ud800"}', "half of a character"),
        (b'{"\\udc00": 1}', "half of a character"),
        (b'{"a": "\xff"}', "UTF-8"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b"[" * 100_000, "nested"),
        (b'{"a":' * 100_000, "nested"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "not JSON"),
        (b"{'a': 1}", "not JSON"),
        (b'{"a": "\n"}', "not JSON"),
    ],
)
def test_what_parsers_read_differently_or_not_at_all_is_refused(data, word):
    with pytest.raises(ApiError) as caught:
        parse(data)
    assert caught.value.status == 400 and word in caught.value.message and len(caught.value.message) <= 200


def test_any_json_object_is_read():
    values = {"a": [1, 2.5, -3e9, None, True, {"b": "é 😀 \u2028"}], "": ""}
    assert parse(json.dumps(values).encode()) == parse(json.dumps(values, ensure_ascii=False).encode()) == values


@pytest.mark.parametrize("value", [10**400, 1e999, True, "1", [], {}])
def test_a_number_is_finite_and_no_truth_value(value):
    with pytest.raises(ApiError) as caught:
        Fields({"x": value}).number("x", least=0, most=5)
    assert caught.value.param == "x" and len(caught.value.message) < 200


def test_a_field_is_absent_where_it_is_null_or_was_read():
    fields = Fields({"a": None, "b": 3})
    assert "a" not in fields and fields.whole("a", 7) == 7 and fields.whole("b") == 3
    fields.end()


@pytest.mark.parametrize(
    ("name", "neutral", "other"), [("store", False, True), ("tools", [], [1]), ("suffix", "", "x")]
)
def test_what_changes_nothing_may_be_there_and_what_is_unknown_may_not(name, neutral, other):
    Fields({name: neutral}).end()
    for left in ({name: other}, {"unheard_of": 1}):
        with pytest.raises(ApiError) as caught:
            Fields(left).end()
        assert caught.value.param == next(iter(left)) and caught.value.code == "unsupported_parameter"
