"""Conversations and inputs: what is asked at the terminal, what the model is shown, what is printed and written."""

import io
import json
from pathlib import Path

import pytest
import tiny
from console import let_say, session, type_in

from common.errors import UserError
from datasets import tasks
from generation.engine import Engine
from generation.options import GenerationOptions
from generation.requests import Request
from generation.text import Generated
from gpt2_jittor import GPT2Config, GPT2ForSequenceClassification
from gpt2_jittor.checkpoint.tokenizer import add_tokens, load_tokenizer

END = tiny.END
CONTEXT, QUESTION = "context, up to an empty line> ", "question> "


@pytest.mark.parametrize("as_json", [False, True])
def test_a_chat_shows_the_model_all_that_was_said(folder, model, shown, monkeypatch, capsys, as_json):
    asked = type_in(monkeypatch, "Hello .", "", "  How are you ?  ", "exit", "never read")
    session(folder, model, "dailydialog", as_json).interact()
    assert shown == [f"Hello .{END}", f"Hello .{END}reply 1.{END}How are you ?{END}"]
    assert asked == ["" if as_json else "> "] * 4  # an empty line is asked again
    told = capsys.readouterr().out.splitlines()
    if as_json:
        assert [json.loads(line)["answer"] for line in told] == ["reply 1.", "reply 2."]
    else:
        assert told == ["reply 1. ", "reply 2. ", ""]  # as they came, but for the space before them


def test_an_empty_reply_is_no_turn_of_the_chat(folder, model, shown, monkeypatch):
    talk = session(folder, model, "dailydialog")
    talk.say({"prompt": "One."})
    with monkeypatch.context() as silent:
        let_say(silent, lambda ids: Generated([], True, 0.0, 0))
        talk.say({"prompt": "Two."})
    talk.say({"prompt": "Three."})
    assert shown[-1] == f"One.{END}reply 1.{END}Three.{END}"


# 81, 31 and 30 tokens fit: of the 11 of a turn and the 9 of a reply, as many as go
@pytest.mark.parametrize(("max_length", "turns"), [(None, 8), (200, 8), (51, 3), (50, 2)])
def test_a_chat_forgets_its_oldest_turns_where_it_grows_longer_than_in_training(
    folder, model, shown, max_length, turns
):
    talk = session(folder, model, "dailydialog", max_length=max_length)
    for number in range(9):
        talk.say({"prompt": f"{number} is said."})
    said = [turn for number in range(1, 9) for turn in (f"reply {number}.", f"{number} is said.")]
    assert shown[-1] == "".join(f"{turn}{END}" for turn in said[-turns:])


def test_a_context_serves_many_questions_and_an_empty_one_asks_for_another(folder, model, shown, monkeypatch):
    typed = ["", "Tea.", "", "What?", "Why?", "", "Sun:", "  it is warm. ", "", "Who?"]
    asked = type_in(monkeypatch, *typed)
    session(folder, model, "squad").interact()
    said = [("Tea.", "What?"), ("Tea.", "Why?"), ("Sun:\nit is warm.", "Who?")]
    assert shown == [f"Context: {context}\nQuestion: {question}\nAnswer:" for context, question in said]
    assert asked == [CONTEXT, CONTEXT, "", *[QUESTION] * 3, CONTEXT, "", "", *[QUESTION] * 2]


def test_thousands_of_empty_lines_are_waited_through(folder, model, shown, monkeypatch):
    for task, first in (("dailydialog", []), ("text", []), ("squad", []), ("rte", ["A."]), ("dolly", [])):
        asked = type_in(monkeypatch, *first, *["", " "] * 2000, "exit")
        session(folder, model, task).interact()
        assert len(asked) == len(first) + 4001
    assert not shown


def test_the_input_may_end_in_the_midst_of_a_context(folder, model, shown, monkeypatch):
    for typed in (["Tea."], ["Tea.", "exit", "", "What?"], ["exit"]):
        type_in(monkeypatch, *typed)
        session(folder, model, "squad").interact()
    assert not shown


def test_a_context_that_is_given_is_not_asked_for(folder, model, shown, monkeypatch):
    asked = type_in(monkeypatch, "What?", "Why?", "", "Sun.", "", "Who?", "exit")
    session(folder, model, "squad").interact("Tea\n\nand milk.")
    said = [("Tea\n\nand milk.", "What?"), ("Tea\n\nand milk.", "Why?"), ("Sun.", "Who?")]
    assert shown == [f"Context: {context}\nQuestion: {question}\nAnswer:" for context, question in said]
    assert asked == [*[QUESTION] * 3, CONTEXT, "", *[QUESTION] * 2]


def test_an_instruction_needs_no_context(folder, model, shown, monkeypatch):
    asked = type_in(monkeypatch, "Count.", "", "", "Name it.", "A tea.", "exit")
    session(folder, model, "dolly").interact()
    instruction, response = "### Instruction:\n{}\n\n", "### Response:\n"
    with_context = instruction.format("Name it.") + "### Context:\nA tea.\n\n" + response
    assert shown == [instruction.format("Count.") + response, with_context]
    assert asked == ["instruction> ", "context> ", "instruction> ", "instruction> ", "context> ", "instruction> "]


def test_an_input_that_is_too_long_is_told_and_the_session_goes_on(folder, model, shown, monkeypatch, capsys):
    type_in(monkeypatch, "a" * 100, "Hello.", "half \udc80", "exit")
    session(folder, model, "dailydialog").interact()
    told = capsys.readouterr()
    assert told.err.splitlines() == [
        "error: the prompt takes 101 tokens, 81 fit: shorten it",
        "error: the prompt is not UTF-8 text; check the terminal's encoding",
    ]
    assert shown == [f"Hello.{END}"] and "reply 1." in told.out


def test_two_sentences_are_asked_for_and_classified(tmp_path, monkeypatch, capsys):
    task = tasks.find("rte")
    folder = tiny.classifier_folder(tmp_path, 1, task.labels)
    model = GPT2ForSequenceClassification.from_pretrained(folder)
    expected = Engine(model, load_tokenizer(folder), task).classify({"sentence1": "The sun.", "sentence2": "A tea."})
    for as_json in (True, False):
        asked = type_in(monkeypatch, "The sun.", "", "A tea.", "exit")
        session(folder, model, "rte", as_json).interact()
        signs = ["sentence1> ", "sentence2> ", "sentence2> ", "sentence1> "]
        assert asked == (["" for _ in signs] if as_json else signs)
    as_json, *table = capsys.readouterr().out.rstrip().splitlines()
    told = json.loads(as_json)
    assert (told["sentence1"], told["sentence2"], told["label"]) == ("The sun.", "A tea.", next(iter(expected)))
    assert told["probabilities"] == pytest.approx(expected, abs=1e-6)
    assert table == [f"{share:7.1%}  {label}" for label, share in expected.items()]


@pytest.mark.parametrize("options", [{}, {"stop": (" ",)}])
def test_what_is_streamed_is_the_answer(folder, model, capsys, options):
    fields = {"prompt": "The warm sun"}
    talk = session(folder, model, "text", **options)
    (told,) = talk.results([fields])
    talk.say(fields)
    assert capsys.readouterr().out == told["answer"] + "\n" and told["tokens"] <= 20


@pytest.mark.parametrize(
    ("said", "streamed"), [("\n \n re  ply ", "re  ply "), (" ", ""), ("", ""), ("<USER> <BOT>reply<END>", "reply")]
)
def test_neither_leading_space_nor_special_tokens_are_streamed(folder, model, monkeypatch, capsys, said, streamed):
    talk = session(folder, model, "dailydialog")
    add_tokens(talk.engine.tokenizer, ["<USER>", "<BOT>", "<END>"])
    let_say(monkeypatch, lambda ids: Generated(talk.engine.tokenizer.encode(said), True, -1.0, 9))
    talk.say({"prompt": "Hi."})
    assert capsys.readouterr().out == streamed + "\n"
    assert talk.history == (["Hi.", streamed] if streamed else [])


def test_an_answer_comes_with_its_fields_score_tokens_and_time(folder, model, shown, capsys):
    session(folder, model, "squad", as_json=True).say({"context": "Tea.", "question": "Ü?"})
    line = capsys.readouterr().out
    told = json.loads(line)
    assert "Ü" in line and told["seconds"] >= 0 and told["tokens_per_second"] > 0
    expected = {"context": "Tea.", "question": "Ü?", "answer": "reply 1.", "score": -0.25, "tokens": 12}
    assert expected == {name: value for name, value in told.items() if "second" not in name}


def test_several_answers_are_numbered_and_in_json_a_list(folder, model, shown, capsys):
    for as_json in (False, True):
        talk = session(folder, model, "text", as_json, samples=2, greedy=False)
        talk.say({"prompt": "The"})
    *numbered, line = capsys.readouterr().out.splitlines()
    assert numbered == ["1.  reply 1. ", "2.  reply 2. "]
    told = json.loads(line)
    assert (told["answer"], told["answers"], told["tokens"]) == (" reply 3. ", [" reply 3. ", " reply 4. "], 24)


def requests(*inputs: dict, **more) -> list[Request]:
    return [Request(fields, more, f"inputs.jsonl:{2 * number}") for number, fields in enumerate(inputs, 1)]


def test_a_file_is_answered_in_its_order_each_chat_by_itself(folder, model, tmp_path, capsys):
    inputs = [{"prompt": "sun " * (1 + number % 7)} for number in range(67)]
    talk = session(folder, model, "dailydialog", max_new_tokens=3)
    output = tmp_path / "answers.jsonl"
    talk.answer_all(requests(*inputs), output)
    told = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    alone = [talk.results([fields])[0] for fields in inputs[:7]]
    assert [line["prompt"] for line in told] == [fields["prompt"] for fields in inputs]
    assert [line["answer"] for line in told] == [alone[number % 7]["answer"] for number in range(len(inputs))]
    assert talk.history == [] and f"{len(inputs)} answers" in capsys.readouterr().out


def test_answers_that_go_to_stdout_are_all_that_goes_there(folder, model, shown, capfd):
    session(folder, model, "text").answer_all(requests({"prompt": "a"}, {"prompt": "bb"}), Path("/dev/stdout"))
    said = capfd.readouterr()
    assert [json.loads(line)["prompt"] for line in said.out.splitlines()] == ["a", "bb"]
    assert "2 answers" in said.err


def test_what_else_a_line_holds_is_copied_beside_its_answer(folder, model, shown, tmp_path):
    output, more = tmp_path / "answers.jsonl", {"id": [7, None], "ü": "Ü"}
    session(folder, model, "text").answer_all(requests({"prompt": "a"}, {"prompt": "bb"}, **more), output)
    lines = output.read_text(encoding="utf-8").splitlines()
    score = {"score": -0.25, "tokens": 12}
    assert [json.loads(line) for line in lines] == [
        more | {"prompt": "a", "answer": " reply 1. "} | score,
        more | {"prompt": "bb", "answer": " reply 2. "} | score,
    ]
    assert all(line.startswith('{"id": [7, null], "ü": "Ü", "prompt": ') for line in lines)


def test_what_a_line_has_under_an_answers_name_is_kept_below_given(folder, model, shown, tmp_path):
    output, more = tmp_path / "answers.jsonl", {"answer": "gold", "score": 5, "label": "joy"}
    session(folder, model, "text").answer_all(requests({"prompt": "a"}, **more), output)
    assert json.loads(output.read_text(encoding="utf-8")) == {
        "prompt": "a",
        "label": "joy",
        "answer": " reply 1. ",
        "score": -0.25,
        "tokens": 12,
        "given": {"answer": "gold", "score": 5},
    }


def test_a_file_with_an_input_that_is_too_long_is_refused_before_anything_is_answered(folder, model, shown, tmp_path):
    output = tmp_path / "answers.jsonl"
    output.write_text("as it was\n")
    with pytest.raises(UserError, match="^inputs.jsonl:4: the prompt takes 101 tokens, 81 fit: shorten it$"):
        session(folder, model, "dailydialog").answer_all(requests({"prompt": "Hi."}, {"prompt": "a" * 100}), output)
    assert not shown and output.read_text() == "as it was\n" and list(tmp_path.iterdir()) == [output]


# an instruction with its context would be cut in training; typed, it is read whole or not at all
@pytest.mark.parametrize(("max_length", "room"), [(None, 81), (100, 80), (500, 81)])
def test_an_instruction_that_would_be_cut_is_refused(folder, model, shown, tmp_path, max_length, room):
    talk = session(folder, model, "dolly", max_length=max_length)
    around = len("### Instruction:\nCount.\n\n### Context:\n\n\n### Response:\n")
    fits = {"instruction": "Count.", "context": "c" * (room - around)}
    too_long = {**fits, "context": fits["context"] + "c"}
    message = f"the input takes {room + 1} tokens, {room} fit: shorten it"
    with pytest.raises(UserError, match=f"^{message}$"):
        talk.say(too_long)
    with pytest.raises(UserError, match=f"^inputs.jsonl:2: {message}$"):
        talk.answer_all(requests(too_long, fits), tmp_path / "answers.jsonl")
    with pytest.raises(UserError, match="tokens at least, .* fit: shorten it$"):
        talk.say({"instruction": "c" * room})
    assert not shown
    talk.say(fits)
    assert len(shown) == 1 and shown[0].count("c" * len(fits["context"])) == 1


def test_a_long_context_is_read_in_windows_but_a_long_question_is_refused(folder, model, shown, capsys):
    talk = session(folder, model, "squad")
    talk.say({"context": "a" * 200, "question": "Why?"})
    assert len(shown) > 1 and all(prompt.endswith("\nQuestion: Why?\nAnswer:") for prompt in shown)
    assert capsys.readouterr().out == "reply 1.\n"  # all are as likely
    with pytest.raises(UserError, match="81 fit: shorten it$"):
        talk.say({"context": "Tea.", "question": "Why" * 30})


@pytest.mark.parametrize(("max_length", "room"), [(None, 101), (9, 9)])
def test_a_text_that_would_be_cut_is_not_classified(tmp_path, capsys, max_length, room):
    folder = tiny.classifier_folder(tmp_path, 1, tasks.find("emotion").labels)
    model = GPT2ForSequenceClassification.from_pretrained(folder)
    talk = session(folder, model, "emotion", as_json=True, max_length=max_length)
    with pytest.raises(UserError, match=f"^the input takes {room + 1} tokens, {room} fit: shorten it$"):
        talk.say({"text": "s" * (room + 1)})
    talk.say({"text": "s" * room})
    assert json.loads(capsys.readouterr().out)["label"] in talk.task.labels


@pytest.mark.parametrize(("option", "value"), [("top_p", 2.0), ("stop", ("",))])
def test_options_out_of_range_are_told_before_there_is_a_model(option, value):
    with pytest.raises(UserError, match=f"^{option} "):
        GenerationOptions(**{option: value}).check(GPT2Config(**tiny.SIZES))


@pytest.mark.parametrize(
    ("encoding", "errors"), [("ascii", "strict"), ("ascii", "surrogateescape"), ("utf-8", "strict")]
)
def test_an_input_in_utf8_is_read_under_any_locale(folder, model, shown, monkeypatch, encoding, errors):
    typed = io.TextIOWrapper(io.BytesIO("Grüße, 你好\nexit\n".encode()), encoding=encoding, errors=errors)
    monkeypatch.setattr("sys.stdin", typed)
    session(folder, model, "text").interact()
    assert shown == ["Grüße, 你好"]


def test_what_the_terminal_cannot_decode_is_told_in_one_line(folder, model, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda sign: b"\xff".decode())
    with pytest.raises(UserError, match="^what was typed is not UTF-8 text; check the terminal's encoding$"):
        session(folder, model, "text").interact()
