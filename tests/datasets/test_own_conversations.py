"""Conversations of people's own, however they are written: what is given, and which answers are scored."""

import json

import pytest
import tiny
from adapters import assert_refused
from own_records import lines, messages, only, rows_of, said, text, write

from datasets.tasks.own.files import guessed_task

SHAREGPT = {"system": "system", "user": "human", "assistant": "gpt"}


@pytest.mark.parametrize("system", [False, True])
def test_each_answer_of_a_conversation_is_scored_in_both_ways_to_write_one(tmp_path, rng, system):
    turns = [("user", text(rng)), ("assistant", text(rng)), ("user", text(rng)), ("assistant", text(rng))]
    turns = [("system", text(rng)), *turns] if system else turns
    expected = [(body, role == "assistant") for role, body in turns]
    theirs = [(SHAREGPT[role], body) for role, body in turns]
    found = only(tmp_path, "chat", {"messages": messages(*turns)})
    assert said(found) == expected
    assert [segment.speaker for segment in found.segments] == [None] * system + [0, 1, 0, 1]
    assert said(only(tmp_path, "chat", {"conversations": messages(*theirs, keys=("from", "value"))})) == expected
    assert said(only(tmp_path, "chat", {"messages": json.dumps(messages(*turns))})) == expected, "in a cell of a table"
    parts = [{"role": role, "content": [{"type": "text", "text": body}]} for role, body in turns]
    assert said(only(tmp_path, "chat", {"messages": parts})) == expected


@pytest.mark.parametrize("weights", [(0, 1), (1, 0), (0.0, None)])
def test_an_answer_of_openais_weight_0_is_read_and_not_scored(tmp_path, weights):
    turns = messages(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    turns[0]["weight"] = 0  # says nothing: a question is not scored anyway
    for turn, weight in zip(turns[1::2], weights, strict=True):
        turn["weight"] = weight
    first, second = (weight != 0 for weight in weights)
    assert said(only(tmp_path, "chat", {"messages": turns})) == [
        ("a", False),
        ("b", first),
        ("c", False),
        ("d", second),
    ]


def test_two_columns_are_a_conversation_of_two_turns(tmp_path):
    example = only(tmp_path, "chat", {"prompt": " Hi ", "completion": "Hello."})
    assert said(example) == [("Hi", False), ("Hello.", True)]
    assert [segment.speaker for segment in example.segments] == [0, 1]


def test_of_a_prompt_and_a_completion_in_messages_the_completion_alone_is_scored(tmp_path):
    prompt = messages(("system", "Be brief."), ("user", "a"), ("assistant", "b"), ("user", "c"))
    example = only(tmp_path, "chat", {"prompt": prompt, "completion": messages(("assistant", "d"))})
    assert said(example) == [("Be brief.", False), ("a", False), ("b", False), ("c", False), ("d", True)]
    assert said(only(tmp_path, "chat", {"prompt": messages(("user", "a")), "completion": "b"})) == [
        ("a", False),
        ("b", True),
    ]
    spelled = {name: json.dumps(messages((role, name))) for name, role in (("prompt", "user"), ("completion", "gpt"))}
    assert said(only(tmp_path, "chat", spelled)) == [("prompt", False), ("completion", True)], "in cells of a table"
    assert guessed_task(tmp_path / "a.jsonl", ()) == "chat"
    path = write(tmp_path / "b.jsonl", lines([{"prompt": str(prompt), "completion": "d"}]))
    assert_refused(lambda: rows_of(path, "chat"), "b.jsonl:1: the field 'prompt' must be a list of messages, as JSON")
    path = write(tmp_path / "b.jsonl", lines([{"prompt": prompt, "completion": messages(("assistant", "d"))}]))
    assert guessed_task(path, ()) == "chat"
    other = write(tmp_path / "text.jsonl", lines([{"text": "a", "entities": messages(("user", "a"))}]))
    assert guessed_task(other, ()) == "complete", "what else a record holds says nothing"
    assert_refused(lambda: rows_of(path, "complete"), f"{path}:1", "list of messages", "--task chat")
    path = write(tmp_path / "c.jsonl", lines([{"prompt": prompt, "completion": messages(("user", "d"))}]))
    assert_refused(lambda: rows_of(path, "chat"), "c.jsonl:1: turns 4 and 5 are both the user's")


def test_an_opening_by_the_assistant_is_given_and_a_last_question_left_out(tmp_path):
    turns = [("assistant", "Hi."), ("user", "a"), ("assistant", "b"), ("user", "c")]
    path = write(tmp_path / "a.jsonl", lines([{"messages": messages(*turns)}, {"messages": messages(*turns[1:3])}]))
    rows = rows_of(path, "chat")
    assert said(rows.examples[0]) == [("Hi.", False), ("a", False), ("b", True)]
    assert rows.notes == ["a.jsonl is read as messages", "last turns that nobody answers, left out: 1"]


def test_an_empty_word_of_a_system_is_none_and_a_developers_is_a_systems(tmp_path):
    turns = [("user", "a"), ("assistant", "b")]
    expected = [("a", False), ("b", True)]
    assert said(only(tmp_path, "chat", {"messages": messages(("system", " "), *turns)})) == expected
    developers = only(tmp_path, "chat", {"messages": messages(("developer", "Be kind."), *turns)})
    assert said(developers) == [("Be kind.", False), *expected]


def test_of_two_names_of_a_role_that_which_is_not_null_counts(tmp_path):
    first = {"role": None, "content": None, "from": "human", "value": "a"}
    second = {"role": "assistant", "content": "b", "from": None, "value": None}
    assert said(only(tmp_path, "chat", {"messages": [first, second]})) == [("a", False), ("b", True)]


def test_parquets_lists_of_messages_are_conversations(tmp_path):
    turns = [("user", "a"), ("assistant", "b")]
    path = tiny.write_records(tmp_path / "a.parquet", [{"messages": messages(*turns), "source": "x"}])
    rows = rows_of(path, "chat")
    assert said(rows.examples[0]) == [("a", False), ("b", True)] and rows.examples[0].source == f"{path}:row 1"
    assert rows.notes == ["a.parquet is read as messages; not used: source"]
