"""Records of every format, where they come from, and what is wrong with broken ones."""

import gzip
import json

import numpy as np
import pyarrow
import pytest
from own_records import lines, write
from pyarrow import parquet

from common.errors import UserError
from datasets.parquet import BATCH
from datasets.read import read_text
from datasets.records import find, records

ROWS = [{"text": "one", "label": 0}, {"text": 'two; ünd "3"', "label": 1}]
COLUMNS = ("text", "label")


def write_parquet(path, rows):
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def read(path, columns=COLUMNS) -> list:
    return list(records(path, columns))


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_json_lines_are_read_packed_or_not_and_know_their_line(tmp_path, name):
    path = write(tmp_path / name, "\ufeff" + lines(ROWS[:1]) + "\r\n" + lines(ROWS[1:]))
    assert read(path) == [(f"{path}:1", ROWS[0]), (f"{path}:3", ROWS[1])]


@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz"])
def test_tab_separated_values_are_named_by_the_header_and_quotes_are_plain_characters(tmp_path, name):
    path = write(tmp_path / name, 'index\ttext\tlabel\r\n0\t"one\tx\r\n\r\n1\ttwo "2"\ty\r\n')
    assert read(path) == [
        (f"{path}:2", {"index": "0", "text": '"one', "label": "x"}),
        (f"{path}:4", {"index": "1", "text": 'two "2"', "label": "y"}),
    ]


def test_parquet_gives_the_wanted_columns_of_every_row_and_its_number(tmp_path):
    rows = [{"text": f"text {number}", "label": number % 3, "other": b"\xff"} for number in range(BATCH + 2)]
    path = write_parquet(tmp_path / "a.parquet", rows)
    found = read(path)
    assert found[-1] == (f"{path}:row {BATCH + 2}", {"text": f"text {BATCH + 1}", "label": (BATCH + 1) % 3})
    assert [record["text"] for _, record in found] == [row["text"] for row in rows]


def test_numbers_of_16_and_32_bits_in_parquet_are_those_that_were_meant(tmp_path):
    values = [0.1, None, 3.0, 1e-7, float("inf")]
    columns = {"text": pyarrow.array(values, "float32"), "label": pyarrow.array(np.float16([0.1, 0.5, 2, 2, 1]))}
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    found = [record for _, record in read(tmp_path / "a.parquet")]
    assert [record["text"] for record in found] == values
    assert [record["label"] for record in found] == [0.1, 0.5, 2, 2, 1]


def test_a_file_of_another_kind_is_the_users_error(tmp_path):
    with pytest.raises(UserError, match=r"a\.xls is none of \.jsonl, \.json, \.csv, \.tsv, \.parquet: convert it"):
        read(write(tmp_path / "a.xls", "text,label\n"))


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_what_is_quoted_in_csv_may_hold_commas_quotes_and_lines(tmp_path, name):
    path = write(tmp_path / name, 'text,label\r\n"one, ""two""\r\nthree",x\r\n\r\nfour,y\r\n')
    assert read(path) == [
        (f"{path}:2", {"text": 'one, "two"\nthree', "label": "x"}),
        (f"{path}:5", {"text": "four", "label": "y"}),
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("text,label\none,x\ntwo\n", "a.csv:3: 1 fields where the header names 2: mend the line"),
        ('text,label\none,"x\ntwo,y\n', r"a.csv:2: this is not CSV \(unexpected end of data\): mend the line"),
        ("\n\ntext,label\none,x\ntwo\n", "a.csv:5: 1 fields where the header names 2: mend the line"),
        ("text,name\none,x\n", "a.csv:1: the field 'label' is missing: each record needs text, label"),
        ("", "a.csv is empty"),
        ("text,label\n", "a.csv is empty"),
        ("sep=;\ntext;label\none;x\ntwo\n", "a.csv:4: 1 fields where the header names 2: mend the line"),
        ('sep=;\ntext;label\none;"x\n', r"a.csv:3: this is not CSV \(unexpected end of data\): mend the line"),
        ("sep=;\ntext;name\none;x\n", "a.csv:2: the field 'label' is missing"),
    ],
)
def test_broken_csv_is_the_users_error(tmp_path, content, words):
    with pytest.raises(UserError, match=words):
        read(write(tmp_path / "a.csv", content))


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet"])
def test_a_column_may_go_by_another_name_and_one_may_be_missing_or_null(tmp_path, name):
    rows = [{"review": "one", "text": "no", "label": 1}, {"review": "two", "text": "yes", "label": 0}]

    def found(rows, **how):
        path = tmp_path / name
        if path.suffix == ".parquet":
            write_parquet(path, rows)
        elif path.suffix in (".csv", ".tsv"):
            by = "," if path.suffix == ".csv" else "\t"
            values = [by.join("" if value is None else str(value) for value in row.values()) for row in rows]
            write(path, "\n".join([by.join(rows[0]), *values]))
        else:
            write(path, json.dumps(rows) if path.suffix == ".json" else lines(rows))
        return [record for _, record in records(path, ("text",), aliases={"review": "text"}, **how)]

    assert [record["text"] for record in found(rows)] == ["no", "yes"]  # its own name comes first
    renamed = [{"review": row["review"], "label": None} for row in rows]
    assert [record["text"] for record in found(renamed)] == ["one", "two"]
    assert [record["label"] for record in found(renamed, optional=("label",))] == ["", ""]
    assert [record["note"] for record in found(renamed, optional=("note",))] == ["", ""]


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl", ""), ("a.jsonl", "\n \n"), ("a.tsv", ""), ("a.tsv", "text\tlabel\n"), ("a.jsonl.gz", "")],
)
def test_a_file_without_a_record_is_the_users_error(tmp_path, name, content):
    with pytest.raises(UserError, match=rf"{name} is empty: give a file with records of text, label"):
        read(write(tmp_path / name, content))


def test_a_parquet_file_without_a_row_is_the_users_error(tmp_path):
    from pyarrow import parquet, schema, string

    parquet.write_table(schema([("text", string()), ("label", string())]).empty_table(), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet is empty"):
        read(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"text": "two", "label": 1', "Expecting ',' delimiter, column 27"),
        ('{"text": "two", "label": 01}', "Expecting ',' delimiter"),
        ("text: two", "Expecting value, column 1"),
        ("[" * 100_000 + "]" * 100_000, "recursion"),
        ('{"text": "two", "label": ' + "1" * 5000 + "}", "digits"),
    ],
)
def test_broken_json_in_the_middle_is_the_users_error_with_its_line(tmp_path, line, reason):
    path = write(tmp_path / "a.jsonl", lines(ROWS[:1]) + line + "\n" + lines(ROWS[1:]))
    with pytest.raises(UserError, match=rf"{path}:2: this is not JSON \(.*{reason}.*: mend or remove the line"):
        read(path)


@pytest.mark.parametrize("line", ["17", "null", '"text"', '[{"text": "one"}]'])
def test_a_json_line_that_is_no_object_is_the_users_error(tmp_path, line):
    path = write(tmp_path / "a.jsonl", lines(ROWS) + line)
    with pytest.raises(UserError, match=rf"{path}:3: a JSON object is needed"):
        read(path)


def test_a_missing_field_is_the_users_error_and_says_where_it_should_be(tmp_path):
    need = "the field 'label' is missing: each record needs text, label"
    path = write(tmp_path / "a.jsonl", lines(ROWS) + '{"text": "three"}\n')
    with pytest.raises(UserError, match=rf"{path}:3: {need}"):
        read(path)
    path = write(tmp_path / "a.tsv", "index\ttext\n0\tone\n")
    with pytest.raises(UserError, match=rf"{path}:1: {need}"):
        read(path)
    path = write_parquet(tmp_path / "a.parquet", [{"text": "one", "other": 1}])
    with pytest.raises(UserError, match=rf"{path}: {need}"):
        read(path)


@pytest.mark.parametrize(("line", "fields"), [("1\ttwo", 2), ("1\ttwo\tx\ty", 4)])
def test_a_tab_separated_line_with_too_few_or_too_many_fields_is_the_users_error(tmp_path, line, fields):
    path = write(tmp_path / "a.tsv", f"index\ttext\tlabel\n0\tone\tx\n{line}\n")
    with pytest.raises(UserError, match=rf"{path}:3: {fields} fields where the header names 3: mend the line"):
        read(path)


@pytest.mark.parametrize("keep", [0, 3, 200, -10])
def test_a_parquet_file_that_is_cut_or_none_is_the_users_error(tmp_path, keep):
    whole = write_parquet(tmp_path / "whole.parquet", ROWS * 100).read_bytes()
    path = write(tmp_path / "a.parquet", whole[:keep])
    with pytest.raises(UserError, match=r"a\.parquet is not a sound Parquet file \(.*\): get it again"):
        read(path)
    with pytest.raises(UserError, match="is not a sound Parquet file"):
        read(write(path, lines(ROWS)))


def test_parquet_with_damaged_pages_or_text_that_is_not_utf8_is_the_users_error(tmp_path):
    from pyarrow import StringArray, Table, array, parquet, py_buffer

    whole = bytearray(
        write_parquet(tmp_path / "a.parquet", [{"text": str(n), "label": n} for n in range(999)]).read_bytes()
    )
    whole[4:400] = bytes(396)
    with pytest.raises(UserError, match="is not a sound Parquet file"):
        read(write(tmp_path / "a.parquet", bytes(whole)))
    offsets = array([0, 2], type="int32").buffers()[1]
    broken = StringArray.from_buffers(1, offsets, py_buffer(b"\xff\xfe"))
    parquet.write_table(Table.from_arrays([broken, array([0])], COLUMNS), tmp_path / "b.parquet")
    with pytest.raises(UserError, match=r"b\.parquet is not a sound Parquet file \(.*utf-8"):
        read(tmp_path / "b.parquet")


def test_a_gzip_file_that_is_cut_or_damaged_or_none_is_the_users_error(tmp_path, rng):
    content = lines({"text": rng.bytes(9).hex(), "label": 1} for _ in range(500)).encode()
    whole, path = gzip.compress(content), tmp_path / "a.jsonl.gz"
    assert len(read(write(path, content))) == 500
    middle = len(whole) // 2
    for damaged in (content, whole[:-9], whole[:middle], whole[:middle] + b"\xff" * 9 + whole[middle + 9 :]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=rf"{path} is not a sound gzip file \(.*\): get it again"):
            read(path)


def test_a_file_that_holds_or_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.read.LIMIT", 1000)
    for name in ("a.txt", "a.txt.gz"):
        assert read_text(write(tmp_path / name, "x" * 1000)) == "x" * 1000
        with pytest.raises(UserError, match=rf"{name} holds more than 1,000 bytes"):
            read_text(write(tmp_path / name, "x" * 1001))


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.tsv"])
def test_bytes_that_are_not_utf8_are_reported_with_their_line(tmp_path, name):
    path = write(tmp_path / name, lines(ROWS).encode() + b'{"text": "caf\xe9"}\n')
    with pytest.raises(UserError, match=rf"{path}:3: this is not UTF-8 text"):
        read(path)


@pytest.mark.parametrize("what", ["missing.txt", "."])
def test_what_cannot_be_opened_is_the_users_error(tmp_path, what):
    with pytest.raises(UserError, match="cannot read .*: (No such file|Is a directory)"):
        read_text(tmp_path / what)


def test_the_first_name_that_is_there_is_found_and_a_file_is_taken_as_it_is(tmp_path):
    for name in ("b", "c"):
        write(tmp_path / name, "x")
    assert find(tmp_path, ["a", "b", "c"], "it") == tmp_path / "b"
    assert find(tmp_path / "c", ["a", "b"], "it") == tmp_path / "c"
    with pytest.raises(UserError, match=rf"{tmp_path} has none of x/y, z: give that file"):
        find(tmp_path, ["x/y", "z"], "that file")
