"""What to answer: typed with options, or read from a file of JSON lines."""

import gzip
import json
import sys

import pytest
from console import type_in

import generate
from common.errors import UserError
from common.options import option_name
from datasets import tasks
from generation.requests import Request, read_requests, typed_request, typed_text


def typed(task: str, **fields):
    """As generate.py hands it over: None for each option that was not typed."""
    return typed_request({"prompt": None, "context": None, "question": None, "text": None, **fields}, tasks.find(task))


@pytest.mark.parametrize(
    ("task", "fields", "request_"),
    [
        ("dailydialog", {"prompt": "Hi."}, {"prompt": "Hi."}),
        ("emotion", {"prompt": "i feel"}, {"text": "i feel"}),
        ("dolly", {"prompt": "Count."}, {"instruction": "Count."}),
        ("dolly", {"context": "Tea.", "instruction": "Count."}, {"instruction": "Count.", "context": "Tea."}),
        ("squad", {"question": "Why?", "context": "Tea."}, {"context": "Tea.", "question": "Why?"}),
        ("squad", {"context": "Tea."}, {"context": "Tea."}),  # questions about it are going to be asked
        ("squad", {}, None),
    ],
)
def test_a_typed_input_has_its_tasks_fields_and_a_single_one_may_be_the_prompt(task, fields, request_):
    found = typed(task, **fields)
    assert found == request_ and list(found or ()) == list(request_ or ())


@pytest.mark.parametrize(
    ("task", "fields", "message"),
    [
        ("squad", {"prompt": "Hi."}, "--prompt says nothing to squad, which takes --context, --question"),
        ("dailydialog", {"context": "Tea."}, "--context says nothing to dailydialog, which takes --prompt"),
        ("squad", {"question": "Why?"}, "--context is missing"),
        ("squad", {"context": " "}, "--context is empty; give it some text"),
        ("dailydialog", {"prompt": " \n"}, "--prompt is empty; give it some text"),
        ("text", {"prompt": ""}, "--prompt is empty; give it some text"),
        ("squad", {"context": "Tea.", "question": ""}, "--question is empty; give it some text"),
        ("squad", {"context": " ", "question": "Why?"}, "--context is empty; give it some text"),
        ("dolly", {"context": "Tea."}, "--instruction is missing"),
        ("emotion", {"prompt": "i feel", "text": "i am"}, "--prompt and --text say the same to emotion: give one"),
    ],
)
def test_a_typed_input_that_does_not_fit_is_refused(task, fields, message):
    with pytest.raises(UserError) as caught:
        typed(task, **fields)
    assert caught.value.with_names(option_name) == message


@pytest.mark.parametrize("name", ["inputs.jsonl", "inputs.jsonl.gz"])
def test_a_file_of_inputs_is_read_with_the_fields_of_its_task(tmp_path, name):
    path = tmp_path / name
    lines = [{"id": 7, "prompt": " Count. ", "seen": [None, {"ü": 1.5}]}, {"instruction": "Name it.", "context": ""}]
    content = "\n\n".join(json.dumps(line) for line in lines).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    assert read_requests(path, tasks.find("dolly")) == [
        Request({"instruction": " Count. "}, {"id": 7, "seen": [None, {"ü": 1.5}]}, f"{path}:1"),
        Request({"instruction": "Name it.", "context": ""}, {}, f"{path}:3"),
    ]


def test_a_prompt_beside_several_fields_is_one_of_the_others(tmp_path):
    path = tmp_path / "inputs.jsonl"
    path.write_text(json.dumps({"prompt": "p", "question": "Why?", "context": "Tea."}))
    (found,) = read_requests(path, tasks.find("squad"))
    assert (found.fields, found.more) == ({"context": "Tea.", "question": "Why?"}, {"prompt": "p"})
    assert list(found.fields) == ["context", "question"]


@pytest.mark.parametrize("name", ["inputs.tsv", "inputs.json", "inputs", "inputs.parquet", "inputs.jsonl.txt"])
def test_a_file_of_another_kind_is_refused_by_its_name(tmp_path, name):
    (tmp_path / name).write_text('{"prompt": "Hi."}')
    with pytest.raises(UserError, match=f"^{tmp_path / name}: input reads JSON lines, .* .jsonl or .jsonl.gz$"):
        read_requests(tmp_path / name, tasks.find("text"))


@pytest.mark.parametrize(
    ("task", "line", "message"),
    [
        ("squad", {"context": "Tea."}, "the field 'question' is missing: squad needs context, question"),
        ("squad", {"prompt": "Tea."}, "the field 'context' is missing"),
        ("dolly", {"context": "Tea."}, "the field 'instruction' is missing: dolly needs instruction$"),
        ("dolly", {"prompt": "Count.", "context": None}, "the field 'context' must be text, not None"),
        ("dolly", {"prompt": "Count.", "instruction": "Name."}, "'prompt' and 'instruction' say the same: keep one"),
        ("text", {"prompt": ""}, "the field 'prompt' is empty"),
        ("dailydialog", {"prompt": " \n"}, "the field 'prompt' is empty"),
        ("text", {"prompt": "half \udc80"}, "the field 'prompt' holds half of a character"),
        ("text", {"prompt": "The", "id": {"half \udc80": 1}}, "a field holds half of a character"),
        ("text", ["The"], "a JSON object is needed"),
    ],
)
def test_a_line_that_is_no_input_is_refused_with_its_place(tmp_path, task, line, message):
    path = tmp_path / "inputs.jsonl"
    good = dict.fromkeys(tasks.find(task).fields, "Tea.")
    path.write_text(f"{json.dumps(good)}\n\n{json.dumps(line)}\n", encoding="utf-8")
    with pytest.raises(UserError, match=f"^{path}:3: .*{message}"):
        read_requests(path, tasks.find(task))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty: give one line with context, question for each input$"),
        ("\n \n", "is empty: give one line"),
        ("{", ":1: this is not JSON"),
        (None, "cannot read"),
    ],
)
def test_a_file_without_inputs_is_refused(tmp_path, content, message):
    path = tmp_path / "inputs.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        read_requests(path, tasks.find("squad"))
    assert str(path) in str(caught.value)


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


@pytest.mark.parametrize("text", ["Ü", "你好 🙂", "plain", "a\n b "])
def test_what_is_typed_is_read_as_utf8_whatever_the_locale(text):
    as_an_ascii_locale_has_it = text.encode().decode("ascii", "surrogateescape")
    assert typed_text(as_an_ascii_locale_has_it) == typed_text(text) == text


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
