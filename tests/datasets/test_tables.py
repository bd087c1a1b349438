"""Tables of people's own, from spreadsheets and programs: what separates fields, what quotes are, and broken rows."""

import pytest
from own_records import write

from common.errors import UserError
from datasets.records import records

TEXTS = [("tea, or sun; or\tboth", "x"), ("two\nlines,", "y"), ('"so" it', "z")]


def read(path, *columns) -> list:
    return [tuple(record.values()) for _, record in records(path, columns or ("text", "label"), quoted=True)]


def spelled(rows, mark: str, always: bool = True) -> str:
    """Rows as spreadsheets write them."""

    def cell(text):
        return '"' + text.replace('"', '""') + '"' if always or any(each in text for each in f'{mark}"\n') else text

    return "".join(mark.join(cell(text) for text in row) + "\r\n" for row in rows)


@pytest.mark.parametrize("first", ["", "sep=MARK\r\n", '"sep=MARK"\r\n', "\r\n"])
@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("always", [True, False])
def test_what_separates_fields_is_said_or_seen(tmp_path, mark, first, always):
    content = first.replace("MARK", mark) + spelled([("text", "label"), *TEXTS], mark, always)
    assert read(write(tmp_path / "a.csv", content)) == TEXTS


@pytest.mark.parametrize(
    ("content", "columns", "expected"),
    [
        ("text, whole;label\none, two;x\nthree;y\n", ["text, whole", "label"], [("one, two", "x"), ("three", "y")]),
        ("text;label;score, %\na;x;0,5\nb;y;0,7\n", ["text", "label"], [("a", "x", "0,5"), ("b", "y", "0,7")]),
        ('"notes\n(free)";text;label\n1;a;x\n', ["text", "label"], [("1", "a", "x")]),
        ('text, label\n"a, b", "x"\n c, y\n', ["text", "label"], [("a, b", "x"), ("c", "y")]),
        ("text\na, b\nc; d\n", ["text"], None),
    ],
)
def test_names_may_hold_what_separates_elsewhere(tmp_path, content, columns, expected):
    path = write(tmp_path / "a.csv", content)
    if expected is None:
        with pytest.raises(UserError, match=r"a\.csv:2: 2 fields where the header names 1: mend the line"):
            read(path, *columns)
    else:
        assert read(path, *columns) == expected


def test_a_row_that_is_broken_is_named_whatever_separates_fields(tmp_path):
    rows = [*[("some text, long", "x")] * 5, ("more",), *[("text", "y")] * 5]
    path = write(tmp_path / "a.csv", "text, whole;label\n" + "".join(";".join(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=r"a\.csv:7: 1 fields where the header names 2"):
        read(path, "text, whole", "label")


def test_texts_of_any_length_do_not_hide_what_separates_fields(tmp_path):
    rows = [(f'{"many words, " * 40_000}"{number}"', "x", "") for number in range(4)]
    content = spelled([("text", "label", "notes, other"), *rows], ";", always=False)
    assert read(write(tmp_path / "a.csv", content)) == rows


@pytest.mark.parametrize("always", [True, False])
@pytest.mark.parametrize("blank", ["", "\t\r\n", "\r\n"])
def test_quotes_of_a_spreadsheets_tsv_are_quotes(tmp_path, always, blank):
    rows = [("text", "label"), *TEXTS[1:], ("one", "x")]
    path = write(tmp_path / "a.tsv", spelled(rows, "\t", always) + blank)
    assert [row for row in read(path) if any(row)] == rows[1:]
    one = write(tmp_path / "b.tsv", spelled([("text",), ("two\nlines",), ("one",)], "\t", always))
    assert read(one, "text") == [("two\nlines",), ("one",)]


def test_quotes_that_are_inches_or_slips_are_text(tmp_path):
    path = write(tmp_path / "a.tsv", 'text\tlabel\nq\t"Yes" he said\n')
    assert read(path) == [("q", '"Yes" he said')]
    path = write(tmp_path / "a.tsv", 'text\tlabel\n"So far\ta\nq\tb\nit was"\tc\n')
    assert read(path) == [('"So far', "a"), ("q", "b"), ('it was"', "c")]
    path = write(tmp_path / "a.tsv", 'text\tlabel\r"a"\tb\r5"\tc\r')  # lines as on old Macs
    assert read(path) == [("a", "b"), ('5"', "c")]


@pytest.mark.parametrize("first", ['text\tlabel\n"he said ""yes"""\tx\n', '"text"\t"label"\n"yes"\tx\n'])
def test_a_quote_that_does_not_fit_into_a_spreadsheets_tsv_is_an_error_not_the_end_of_all_quotes(tmp_path, first):
    path = write(tmp_path / "a.tsv", first + '"bad" start\ty\n')
    with pytest.raises(UserError, match=r"a\.tsv:3: this is not CSV"):
        read(path)
