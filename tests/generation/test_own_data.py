"""Tasks on data of one's own at the terminal: what the model is shown is what such a run was trained on."""

import pytest
import tiny
from console import session, type_in
from own_records import conversation

from datasets import tasks
from datasets.turns import conversations
from generation.requests import read_requests, typed_request
from gpt2_jittor.checkpoint.tokenizer import save_tokenizer

END = tiny.END
COLONS = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.mark.parametrize("system", [None, "Be kind."])
def test_what_an_assistant_is_told_stands_before_the_whole_chat_and_is_not_asked_for(
    folder, model, shown, monkeypatch, system
):
    asked = type_in(monkeypatch, "Hello.", "", "Why?", "exit")
    session(folder, model, "chat").interact(system)
    first = f"{system}{END}" if system else ""
    assert shown == [f"{first}Hello.{END}", f"{first}Hello.{END}reply 1.{END}Why?{END}"]
    assert asked == ["> "] * 4


@pytest.mark.parametrize(
    ("template", "opening", "answer"),
    # without a generation prompt the space before the answer is the answer's
    [(COLONS, "assistant: ", "So"), (COLONS[: COLONS.index("{% if")], "assistant:", " So")],
)
def test_a_tokenizers_template_opens_each_answer_as_it_did_in_training(
    tmp_path, model, shown, monkeypatch, template, opening, answer
):
    tokenizer = tiny.byte_tokenizer(tmp_path)
    tokenizer.chat_template = template
    save_tokenizer(tokenizer, tmp_path)
    type_in(monkeypatch, "Hello.", "Why?", "exit")
    session(tmp_path, model, "chat").interact("Be kind.")
    said = [("system", "Be kind."), ("user", "Hello."), ("assistant", "reply 1."), ("user", "Why?")]
    (item,) = conversations([conversation([*said, ("assistant", "So")])], tokenizer, 200).items
    assert tokenizer.decode(item.input_ids) == shown[1] + answer + END
    assert shown[1].endswith(f"assistant: reply 1.{END}user: Why?{END}{opening}")


def test_a_chat_with_a_system_forgets_its_oldest_turns_and_keeps_that(folder, model, shown):
    talk = session(folder, model, "chat", max_length=60)
    for number in range(5):
        talk.say({"system": "Be kind.", "prompt": f"{number} is said."})
    # 40 tokens fit: 9 of the system's, 11 of a turn and 9 of a reply
    assert shown[-1] == f"Be kind.{END}3 is said.{END}reply 4.{END}4 is said.{END}"


def test_a_system_is_typed_and_read_beside_a_prompt_or_before_a_session(tmp_path):
    chat, path = tasks.find("chat"), tmp_path / "a.jsonl"
    assert typed_request({"prompt": "Hi", "system": "Be kind."}, chat) == {"system": "Be kind.", "prompt": "Hi"}
    assert typed_request({"prompt": None, "system": "Be kind."}, chat) == {"system": "Be kind."}
    path.write_text('{"prompt": "Hi", "system": "Be kind.", "id": 1}\n{"prompt": "Hi"}\n')
    assert [each.fields for each in read_requests(path, chat)] == [
        {"system": "Be kind.", "prompt": "Hi"},
        {"prompt": "Hi"},
    ]


def test_a_completion_goes_on_where_its_prompt_ends(folder, model, shown, capsys):
    session(folder, model, "complete").say({"prompt": "Tea is \n"})
    assert shown == ["Tea is \n"] and capsys.readouterr().out == " reply 1. \n"
