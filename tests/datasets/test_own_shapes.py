"""Shapes of people's own records: which is recognised, what is given and scored, what a broken record says."""

import gzip
import json

import pytest
import tiny
from own_records import lines, messages, only, rows_of, said, table, text, write

from common.errors import UserError


def fault(tmp_path, task: str, record: dict) -> str:
    """Why a record is left out, behind its place; there is a sound one of the task's beside it."""
    sound = {
        "chat": {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        "complete": {"prompt": "a", "completion": "b"},
        "instruct": {"instruction": "a", "output": "b"},
        "classify": {"text": "a", "label": "b"},
    }
    path = write(tmp_path / "a.jsonl", lines([sound[task], record]))
    (dropped,) = rows_of(path, task).dropped
    assert dropped.startswith(f"{path}:2: "), dropped
    return dropped.removeprefix(f"{path}:2: ")


def error(tmp_path, task: str, record: object) -> str:
    """What is said of a record, the first of a file, behind its place."""
    path = write(tmp_path / "a.jsonl", lines([record]))
    with pytest.raises(UserError) as caught:
        rows_of(path, task)
    return str(caught.value).removeprefix(f"{path}:1: ")


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.json.gz", "a.csv", "a.csv.gz", "a.tsv", "a.CSV", "a.parquet"]
)
def test_every_format_holds_the_same_examples(tmp_path, rng, name):
    records = [{"prompt": text(rng), "completion": f" {text(rng)}"} for _ in range(rng.integers(1, 9))]
    path, ending = tmp_path / name, name.removesuffix(".gz").rpartition(".")[2].lower()
    contents = {
        "jsonl": lines(records),
        "json": json.dumps(records, indent=1),
        "csv": table(records),
        "tsv": table(records, "\t"),
    }
    if ending == "parquet":
        tiny.write_records(path, records)
    else:
        write(path, "\ufeff" + contents[ending])
    examples = rows_of(path, "complete").examples
    assert [said(each) for each in examples] == [
        [(record["prompt"], False), (record["completion"], True)] for record in records
    ]
    assert all(example.source.startswith(f"{path}:") for example in examples)


def test_a_quoted_cell_may_hold_lines_and_the_next_record_knows_its_own(tmp_path):
    path = write(tmp_path / "a.csv", 'prompt,completion\r\n"one\r\ntwo"," a, ""b"""\r\n\r\nthree,\r\nfour, c\r\n')
    rows = rows_of(path, "complete")
    assert [said(each) for each in rows.examples] == [
        [("one\ntwo", False), (' a, "b"', True)],
        [("four", False), (" c", True)],
    ]
    assert rows.dropped == [f"{path}:5: the completion is empty"] and rows.examples[1].source == f"{path}:6"


@pytest.mark.parametrize(
    ("before", "after", "joined"),
    [("tea", "sun", " sun"), ("tea ", "sun", "sun"), ("tea", "\nsun ", "\nsun "), ("tea:\n\n", " sun", " sun")],
)
def test_a_completion_is_kept_to_its_last_character_and_begins_with_a_space_where_none_is_there(
    tmp_path, before, after, joined
):
    example = only(tmp_path, "complete", {"prompt": before, "completion": after})
    assert said(example) == [(before, False), (joined, True)]


def test_a_text_without_a_prompt_is_scored_from_its_first_word(tmp_path, rng):
    body = f" {text(rng)}\n"
    assert said(only(tmp_path, "complete", {"text": body, "id": 3})) == [(body, True)]
    assert said(only(tmp_path, "complete", {"prompt": None, "completion": body})) == [(body, True)]


def test_an_instruction_is_given_as_dollys_and_its_answer_scored_whole(tmp_path, rng):
    asked, about, answer = (text(rng) for _ in range(3))
    given = f"### Instruction:\n{asked}\n\n### Context:\n{about}\n\n### Response:\n"
    for names in (("output", "input"), ("response", "context")):
        example = only(tmp_path, "instruct", {"instruction": asked, names[0]: f" {answer} ", names[1]: about})
        assert "".join(part for part, _ in said(example)[:-1]) == given
        assert said(example)[-1] == (answer, True) and not example.segments[-1].cut
        for empty in ({}, {names[1]: None}, {names[1]: "  "}):
            example = only(tmp_path, "instruct", {"instruction": asked, names[0]: answer} | empty)
            assert "".join(part for part, _ in said(example)[:-1]) == f"### Instruction:\n{asked}\n\n### Response:\n"


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (" Spam ", "Spam"),
        (3, "3"),
        (2.0, "2"),
        ("2", "2"),
        ("2.0", "2"),
        ("-1.0", "-1"),
        ("1.5", "1.5"),
        (True, "true"),
        (-1, "-1"),
    ],
)
def test_a_label_is_text_or_a_whole_number(tmp_path, value, name):
    example = only(tmp_path, "classify", {"text": " a ", "label": value})
    assert (example.name, said(example)) == (name, [("a", False)])


@pytest.mark.parametrize(
    ("task", "record", "words"),
    [
        ("complete", {"prompt": "a", "completion": " \n"}, "the completion is empty"),
        ("complete", {"prompt": "a", "completion": None}, "the completion is empty"),
        ("complete", {"prompt": "a", "completion": float("nan")}, "the completion is empty"),
        ("instruct", {"instruction": "", "output": "a"}, "the instruction is empty"),
        ("instruct", {"instruction": "a", "output": " "}, "the output is empty"),
        ("classify", {"text": "", "label": "a"}, "the text is empty"),
        ("classify", {"text": "a", "label": None}, "the label is empty"),
        ("chat", {"messages": []}, "the assistant answers nothing in it"),
        ("chat", {"messages": None}, "the field 'messages' is empty"),
        ("chat", {"messages": messages(("user", "a"))}, "the assistant answers nothing in it"),
        ("chat", {"messages": messages(("assistant", "a"))}, "the assistant answers nothing in it"),
        ("chat", {"messages": messages(("user", "a"), ("assistant", " "))}, "turn 2, the assistant's, is empty"),
        ("chat", {"messages": messages(("user", "a"), ("user", "b"))}, "turns 1 and 2 are both the user's"),
        (
            "chat",
            {"messages": messages(("user", "a"), ("system", "b"), ("assistant", "c"))},
            "turn 2 is a system's, which only the first can be",
        ),
        (
            "chat",
            {
                "messages": [
                    *messages(("user", "a")),
                    {"role": "assistant", "content": "b", "tool_calls": ["c"]},
                ]
            },
            "message 2 is of a tool, or calls one, which is no text that could be learnt",
        ),
        (
            "chat",
            {"messages": [*messages(("user", "a")), {"role": "assistant", "content": "b", "weight": 0}]},
            "the assistant answers nothing in it that is to be learnt",
        ),
        (
            "chat",
            {"messages": [*messages(("user", "a")), {"role": "assistant", "content": "b", "function_call": {"c": 1}}]},
            "message 2 is of a tool, or calls one, which is no text that could be learnt",
        ),
        (
            "chat",
            {"messages": messages(("human", "a"), ("observation", "b"), ("gpt", "c"), keys=("from", "value"))},
            "message 2 is of a tool, or calls one, which is no text that could be learnt",
        ),
    ],
)
def test_a_record_of_which_nothing_can_be_learnt_is_left_out_with_its_place(tmp_path, task, record, words):
    assert fault(tmp_path, task, record) == words


@pytest.mark.parametrize(
    ("task", "record", "words"),
    [
        ("complete", {"prompt": ["a"], "completion": "b"}, "the field 'prompt' must be text, not ['a']"),
        ("complete", {"prompt": "a\ud800", "completion": "b"}, "half of a character"),
        ("classify", {"text": "a", "label": [1]}, "the field 'label' must be text, not [1]"),
        ("classify", {"text": "a", "label": 0.5}, "the label 0.5 is neither text nor a whole number"),
        ("chat", {"messages": "hello"}, "the field 'messages' must be a list of messages, as JSON"),
        ("chat", {"messages": 7}, "the field 'messages' must be a list of messages, not 7"),
        ("chat", {"messages": ["a"]}, "message 1 needs 'role' and 'content', or 'from' and 'value', not 'a'"),
        ("chat", {"messages": [{"role": "user"}]}, "message 1 has no 'content'"),
        (
            "chat",
            {"messages": messages(("judge", "a"))},
            "message 1 has the unknown role 'judge': the roles are system",
        ),
        ("chat", {"messages": messages(("user", {"a": 1}))}, "message 1: the field 'content' must be text"),
        ("chat", {"messages": messages(("user", [{"type": "image_url"}]))}, "message 1 holds a part that is no text"),
        (
            "chat",
            {"messages": [*messages(("user", "a")), {"role": "assistant", "content": "b", "weight": "0"}]},
            "message 2 has the weight '0': it must be 0 or 1",
        ),
        ("complete", ["a"], "a JSON object is needed, not ['a']"),
    ],
)
def test_a_broken_record_is_the_users_error_with_its_place(tmp_path, task, record, words):
    assert error(tmp_path, task, record).startswith(words) or words == "half of a character"
    assert words in error(tmp_path, task, record)


def test_the_first_shape_whose_columns_are_there_is_taken_and_the_rest_is_said(tmp_path):
    path = write(tmp_path / "a.csv", "id,Text,LABEL,date\n1,tea,warm,now\n")
    rows = rows_of(path, "classify")
    assert rows.notes == ["a.csv is read as text/label (text = Text, label = LABEL); not used: id, date"]
    path = write(tmp_path / "b.csv", "prompt,completion,text\n1,tea,warm\n")
    assert rows_of(path, "complete").notes == ["b.csv is read as prompt/completion; not used: text"]


def test_an_optional_column_may_be_there_in_later_records_alone(tmp_path):
    records = [{"instruction": "a", "output": "b"}, {"instruction": "a", "output": "b", "input": "c"}]
    without, with_context = rows_of(write(tmp_path / "a.jsonl", lines(records)), "instruct").examples
    assert "### Context:\nc\n" in "".join(text for text, _ in said(with_context))
    assert "Context" not in "".join(text for text, _ in said(without))


def test_named_columns_come_before_those_that_are_called_like_ours(tmp_path):
    path = write(tmp_path / "a.csv", "prompt,question,answer\nx,tea?,warm\n")
    rows = rows_of(path, "complete", prompt="question", completion="answer")
    assert said(rows.examples[0]) == [("tea?", False), (" warm", True)]
    assert rows.notes == [
        "a.csv is read as prompt/completion (prompt = question, completion = answer); not used: prompt"
    ]
    assert said(rows_of(path, "complete", text="answer").examples[0]) == [("warm", True)]


def test_capitals_make_no_difference_in_named_columns_unless_both_are_there(tmp_path):
    path = write(tmp_path / "a.csv", "Question, Answer\ntea?,warm\n")
    assert said(rows_of(path, "complete", prompt="question", completion="ANSWER").examples[0])[1] == (" warm", True)
    path = write(tmp_path / "b.csv", "A,a,b\ntea?,sun?,warm\n")
    assert said(rows_of(path, "complete", prompt="a", completion="b").examples[0])[0] == ("sun?", False)


def test_a_column_that_was_named_is_not_taken_for_another_as_well(tmp_path):
    path = write(tmp_path / "a.csv", "input,output\ntea?,warm\n")
    (example,) = rows_of(path, "instruct", instruction="input").examples
    assert "".join(part for part, _ in said(example)) == "### Instruction:\ntea?\n\n### Response:\nwarm"


def test_a_file_of_no_shape_says_what_it_has_and_what_would_do(tmp_path):
    path = write(tmp_path / "a.csv", "question,answer\ntea?,warm\n")
    with pytest.raises(UserError, match=r"a\.csv has the columns question, answer, complete needs prompt/completion"):
        rows_of(path, "complete")
    with pytest.raises(UserError, match=r"a\.csv has no column 'reply' \(columns\): it has question, answer"):
        rows_of(path, "complete", prompt="question", completion="reply")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "text,label\n", "a.csv has no record"),
        ("a.csv", "", "a.csv has no record"),
        ("a.csv", "text,label,text\na,b,c\n", "a.csv:1: there are two columns 'text'"),
        ("a.csv", "text,label\na,b\nc\n", "a.csv:3: 1 fields where the header names 2"),
        ("a.csv", "text,label\na,b\n".encode("utf-16"), "a.csv:1: this is not UTF-8 text, but UTF-16"),
        ("a.csv", b"text,label\na,b\nc,\xff\n", "a.csv:3: this is not UTF-8 text: convert"),
        (
            "a.csv",
            gzip.compress(b"text,label\n", mtime=0),  # or two workers that collect tests would not agree
            "a.csv is no text, but packed by gzip: give it a name that ends in .gz",
        ),
        ("a.csv", b"PK\x03\x04\xff", "a.csv is no text, but a zip or a spreadsheet: unpack it, or save it as .csv"),
        ("a.jsonl", '{"text": "a", "label": "b"}\n{"text": "c"}\n', "a.jsonl:2: the field 'label' is missing"),
        ("a.jsonl", '{"text": "a", "label": "b"}\n\n{"text"\n', "a.jsonl:3: this is not JSON"),
        ("a.json", '{\n "data": [{"text": "a", "label": "b"}]\n}', "a.json has the columns data, classify needs"),
        ("a.txt", "a", "a.txt is none of .jsonl, .json, .csv"),
        ("a.csv", "text,label\n,b\na,\n", "a.csv has nothing to learn from; the first: "),
    ],
)
def test_a_broken_file_is_the_users_error_with_its_line(tmp_path, name, content, words):
    with pytest.raises(UserError) as caught:
        rows_of(write(tmp_path / name, content), "classify")
    assert str(caught.value).startswith(f"{tmp_path}/{words}")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_of_a_spreadsheet_may_be_separated_otherwise(tmp_path, separator):
    path = write(tmp_path / "a.csv", table([{"text": 'tea, sun; "warm"', "label": "a\tb"}], separator))
    (example,) = rows_of(path, "classify").examples
    assert (said(example), example.name) == ([('tea, sun; "warm"', False)], "a\tb")


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_one_object_over_several_lines_is_one_record(tmp_path, name):
    path = write(tmp_path / name, json.dumps({"text": "a", "label": "b"}, indent=2))
    (example,) = rows_of(path, "classify").examples
    assert example.source == f"{path}:1"
