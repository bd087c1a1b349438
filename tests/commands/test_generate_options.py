"""Options of `generate.py`: how they are read, which go together, and which a task has no use for."""

import json
import sys

import pytest
from console import type_in

import generate
from common.errors import UserError
from common.options import option_name
from datasets import tasks


def options(monkeypatch, *typed):
    monkeypatch.setattr(sys, "argv", ["generate.py", *map(str, typed)])
    return generate.parse()


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (("--greedy",), "--greedy"),
        (("--temperature", 0), "--temperature"),  # what is set to nothing is set all the same
        (("--top-k", 0), "--top-k"),
        (("--top-p", 1, "--samples", 2), "--top-p, --samples"),
        (("--min-p", 0.1, "--best-of", 3), "--min-p, --best-of"),
        (("--num-beams", 2, "--length-penalty", 1), "--length-penalty, --num-beams"),
        (("--repetition-penalty", 1.1, "--no-repeat-ngram", 2), "--no-repeat-ngram, --repetition-penalty"),
        (("--stop", "."), "--stop"),
    ],
)
def test_a_classifier_is_not_told_how_to_choose_tokens(monkeypatch, typed, told):
    given = vars(options(monkeypatch, *typed))
    with pytest.raises(UserError) as caught:
        generate.check_classifier(given, tasks.find("emotion"))
    assert caught.value.with_names(option_name) == f"emotion has classes and says nothing: leave out {told}"
    generate.check_classifier(given, tasks.find("dailydialog"))


def test_a_classifier_takes_all_other_options(monkeypatch):
    typed = ("--text", "i feel", "--json", "--batch-size", 2, "--seed", 3, "--device", "cpu")
    generate.check_classifier(vars(options(monkeypatch, *typed)), tasks.find("emotion"))


def test_answers_are_not_written_over_a_folder(monkeypatch, tmp_path):
    with pytest.raises(UserError, match=f"^output {tmp_path} is a folder: name a file in it$"):
        options(monkeypatch, "--input", tmp_path / "inputs.jsonl", "--output", tmp_path)


@pytest.mark.parametrize("more", [("--samples", 2), ("--best-of", 3)])
@pytest.mark.parametrize("typed", [("--greedy",), ("--temperature", 0)])
def test_the_likeliest_tokens_give_one_answer(monkeypatch, typed, more):
    with pytest.raises(UserError, match="^greedy has one answer"):
        options(monkeypatch, *typed, *more)


@pytest.mark.parametrize("text", [b"caf\xe9", b"\xff"])
def test_what_is_typed_in_another_encoding_is_told(monkeypatch, text):
    with pytest.raises(UserError, match="^what was typed is not UTF-8 text; check the terminal's encoding$"):
        options(monkeypatch, "--prompt", text.decode("utf-8", "surrogateescape"))


def test_options_that_hold_text_are_read_as_utf8(monkeypatch):
    typed = "é".encode().decode("ascii", "surrogateescape")
    given = options(monkeypatch, "--prompt", typed, "--context", typed, "--stop", typed, "a")
    assert (given.prompt, given.context, given.stop) == ("é", "é", ["é", "a"])


def test_a_context_alone_on_the_command_line_opens_the_questions(monkeypatch, capsys):
    asked = type_in(monkeypatch, "What is warm?", "exit")
    options = ("--task", "squad", "--context", "Tea is warm.", "--greedy", "--json", "--max-new-tokens", "2")
    monkeypatch.setattr(sys, "argv", ["generate.py", "--model", "nano", *options])
    generate.main()
    (line,) = capsys.readouterr().out.splitlines()
    told = json.loads(line)
    assert (told["context"], told["question"]) == ("Tea is warm.", "What is warm?") and asked == ["", ""]
