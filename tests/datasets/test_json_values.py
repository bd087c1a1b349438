"""JSON in all the ways in which records are written, and the line of what is no JSON."""

import json

import pytest
from own_records import lines, write

from common.errors import UserError
from datasets.records import records

ROWS = [{"text": "one", "label": 0}, {"text": 'two; ünd "3"', "label": 1}]


def read(path) -> list:
    return list(records(path, ("text", "label")))


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.json.gz", "a.ndjson"])
@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_of_objects_is_read_whatever_the_file_is_called(tmp_path, name, indent):
    path = write(tmp_path / name, "\ufeff" + json.dumps(ROWS, indent=indent) + "\n")
    assert read(path) == [(f"{path}: record 1", ROWS[0]), (f"{path}: record 2", ROWS[1])]
    path = write(tmp_path / name, lines(ROWS))
    assert read(path) == [(f"{path}:1", ROWS[0]), (f"{path}:2", ROWS[1])]


@pytest.mark.parametrize(
    "spelled",
    [
        "\n".join(json.dumps(row, indent=2) for row in ROWS),  # as jq writes them
        "\n".join(json.dumps(row).replace(", ", ",\n\n") for row in ROWS),
        "{}{}".format(*(json.dumps(row, indent=1) for row in ROWS)),
    ],
)
def test_objects_over_several_lines_know_the_line_in_which_they_begin(tmp_path, spelled):
    path = write(tmp_path / "a.json", f"\n{spelled}\n")
    second = 2 + spelled.count("\n", 0, spelled.index("{", 1))
    assert read(path) == [(f"{path}:2", ROWS[0]), (f"{path}:{second}", ROWS[1])]
    path = write(tmp_path / "a.json", spelled[: spelled.index("}")] + "\n}\n")
    assert read(path) == [(f"{path}:1", ROWS[0])]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            '{"text": "one" "label": 0}\n{"text": "two", "label": 1}\n',
            ":1: this is not JSON .*: mend or remove the line",
        ),
        ('{"text": "one",\n{"text": "two", "label": 1}\n', ":1: this is not JSON .*: mend or remove the line"),
        ('{"text": "one", "la\n{"text": "two", "label": 1}\n', ":1: this is not JSON .*: mend or remove the line"),
        ('{"text": "one",\n "label": 0}\n{"text": "two",\n "label" 1}\n', ":4: this is not JSON .*: mend the file"),
        ('[{"text": "one", "label": 0}]\n[{"text": "two", "label": 1}]\n', ":1: a JSON object is needed, not "),
        ('{\n"text": ' + "[" * 100_000, ":1: this is not JSON .*recursion.*: mend the file"),
        ('{\n"text": ' + "1" * 5000 + "\n}", ":1: this is not JSON .*digits.*: mend the file"),
        (
            '[\n{"text": "one", "label": 0},\n{"text": "two" "label": 1}\n]',
            r":3: this is not JSON \(Expecting ',' delimiter, column 16\)",
        ),
        ('[{"text": "one", "label": 0}, 7]', ": record 2: a JSON object is needed, not 7"),
        ('[{"text": "one"}]', ": record 1: the field 'label' is missing"),
        (" \n\n", " is empty"),
        ("[]", " is empty"),
    ],
)
def test_other_json_is_the_users_error_with_its_line(tmp_path, content, words):
    path = write(tmp_path / "a.json", content)
    with pytest.raises(UserError, match=f"{path}{words}"):
        read(path)
