"""POST /v1/chat/completions: messages become each task's own prompt, answers the API's."""

import json
import math

import numpy as np
import pytest
from asking import Asker
from computing import FakeComputing, Running, served

from datasets import tasks
from generation.engine import Engine
from generation.options import GenerationOptions
from gpt2_jittor.checkpoint.tokenizer import load_tokenizer
from serving.work import Continuation


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def events(answer) -> list:
    """What a stream's events hold, but for its end."""
    lines = answer.text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


def engine_prompt(task, tokenizer, fields, history=(), max_length=200, max_new_tokens=80) -> list:
    """The windows that `generate.py`'s engine reads of the same."""

    class Model:
        class config:
            n_positions = max_length

    engine = Engine(Model, tokenizer, task, GenerationOptions(max_new_tokens=max_new_tokens))
    return [ids.tolist() for ids in engine.encode_whole(engine.example(fields, history)).windows]


def test_an_answer_has_exactly_the_fields_of_the_api(ask, computing, tokenizer):
    computing.script = tokenizer(" I like tea. ")["input_ids"]
    body = ask.post("/v1/chat/completions", model="dailydialog", messages=[user("Hi")]).json()
    assert body.pop("id").startswith("chatcmpl-") and isinstance(body.pop("created"), int)
    prompt, written = len(computing.tickets[0].work.prompt), len(computing.script) + 1
    assert body == {
        "object": "chat.completion",
        "model": "dailydialog",
        "system_fingerprint": None,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "I like tea.", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": written,
            "total_tokens": prompt + written,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }


def test_a_stream_begins_with_the_role_and_ends_with_the_reason(ask, computing, tokenizer):
    computing.script = tokenizer(" I like  tea. ")["input_ids"]
    options = {"model": "chat", "messages": [user("Hi")], "stream": True, "stream_options": {"include_usage": True}}
    *parts, last = events(ask.post("/v1/chat/completions", **options))
    assert {part["object"] for part in parts} == {"chat.completion.chunk"} and len({part["id"] for part in parts}) == 1
    deltas = [part["choices"][0]["delta"] for part in parts]
    assert deltas[0] == {"role": "assistant", "content": ""} and deltas[-1] == {}
    assert len(deltas) > 4, "it comes in pieces"
    assert "".join(delta["content"] for delta in deltas[:-1]) == "I like  tea."
    assert [part["choices"][0]["finish_reason"] for part in parts] == [None] * (len(parts) - 1) + ["stop"]
    assert last["choices"] == [] and last["usage"]["completion_tokens"] == len(computing.script) + 1


def test_log_probabilities_come_with_bytes_and_the_likeliest(ask, computing, tokenizer):
    computing.script = tokenizer(" 茶!")["input_ids"]
    options = {"model": "chat", "messages": [user("Hi")], "logprobs": True, "top_logprobs": 2, "max_tokens": 20}
    (choice,) = ask.post("/v1/chat/completions", **options).json()["choices"]
    content = choice["logprobs"]["content"]
    assert b"".join(bytes(each["bytes"]) for each in content).decode() == " 茶!"
    assert choice["message"]["content"] == "茶!" and choice["logprobs"]["refusal"] is None
    for each in content:
        assert set(each) == {"token", "logprob", "bytes", "top_logprobs"} and len(each["top_logprobs"]) == 2
        assert set(each["top_logprobs"][0]) == {"token", "logprob", "bytes"}
        assert each["logprob"] <= each["top_logprobs"][0]["logprob"] <= 0
    streamed = events(ask.post("/v1/chat/completions", stream=True, **options))
    parts = [part["choices"][0]["logprobs"] for part in streamed if part["choices"][0]["logprobs"]]
    assert [each for part in parts for each in part["content"]] == content


def test_logprobs_alone_have_no_likeliest(ask):
    options = {"model": "chat", "messages": [user("Hi")], "logprobs": True, "max_tokens": 3}
    content = ask.post("/v1/chat/completions", **options).json()["choices"][0]["logprobs"]["content"]
    assert len(content) == 3 and all(each["top_logprobs"] == [] for each in content)
    assert all(-math.inf < each["logprob"] <= 0 for each in content)


SYSTEM = {"role": "system", "content": "Be kind."}
DEVELOPER = {"role": "developer", "content": "Be kind."}
CONTEXT = {"role": "system", "content": "Tea is warm."}
PARTS = [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]
ASSISTANT = {"role": "assistant", "content": "Hello."}


@pytest.mark.parametrize(
    ("model", "messages", "fields", "history"),
    [
        ("dailydialog", [user(" Hi ")], {"prompt": " Hi "}, ()),
        ("dailydialog", [user("Hi"), ASSISTANT, user("Tea?")], {"prompt": "Tea?"}, ("Hi", "Hello.")),
        ("chat", [SYSTEM, user("A"), ASSISTANT, user("B")], {"system": "Be kind.", "prompt": "B"}, ("A", "Hello.")),
        ("chat", [DEVELOPER, user("Hi")], {"system": "Be kind.", "prompt": "Hi"}, ()),
        ("chat", [user(PARTS)], {"prompt": "Hi"}, ()),
        ("chat", [user("A"), {**ASSISTANT, "content": ""}, user("B")], {"prompt": "B"}, ("A", "")),
        ("dailydialog", [user("A"), {"role": "assistant", "content": None}, user("B")], {"prompt": "B"}, ("A", "")),
        ("squad", [CONTEXT, user("What?")], {"context": "Tea is warm.", "question": "What?"}, ()),
        ("instruct", [user("Sing.")], {"instruction": "Sing."}, ()),
        ("instruct", [SYSTEM, user("Sing.")], {"instruction": "Sing.", "context": "Be kind."}, ()),
        ("complete", [user(" def f(x):\n ")], {"prompt": " def f(x):\n "}, ()),
    ],
)
def test_messages_become_the_prompt_that_generate_py_makes_of_them(
    ask, computing, models, tokenizer, model, messages, fields, history
):
    assert ask.post("/v1/chat/completions", model=model, messages=messages).status_code == 200
    (ticket,) = computing.tickets
    assert isinstance(ticket.work, Continuation) and ticket.work.model == model
    assert [ticket.work.prompt.tolist()] == engine_prompt(models[model].task, tokenizer, fields, history)
    assert ticket.work.max_tokens == 200 - len(ticket.work.prompt), "an answer may go on to its end"


def test_text_that_is_continued_is_talked_to_as_a_dialogue_or_by_its_own_template(ask, computing, models, tokenizer):
    assert ask.post("/v1/chat/completions", model="nano", messages=[user("Hi")]).status_code == 200
    expected = engine_prompt(tasks.find("dailydialog"), tokenizer, {"prompt": "Hi"})
    assert [computing.tickets[-1].work.prompt.tolist()] == expected
    templated = load_tokenizer(tokenizer.name_or_path)
    templated.chat_template = (
        "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}"
        "{{ eos_token if message['role'] == 'assistant' else '' }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    computing.served["own"] = served("own", models["nano"].task, templated)
    assert ask.post("/v1/chat/completions", model="own", messages=[SYSTEM, user("Hi")]).status_code == 200
    said = tokenizer.decode(computing.tickets[-1].work.prompt)
    assert said == "[system] Be kind.\n[user] Hi\n[assistant]"


def test_a_chat_that_is_too_long_forgets_its_oldest_turns_and_keeps_room_for_an_answer(ask, computing):
    messages = [user("one two three"), ASSISTANT] * 40 + [user("And now?")]
    assert ask.post("/v1/chat/completions", model="dailydialog", messages=messages, max_tokens=90).status_code == 200
    work = computing.tickets[-1].work
    assert 90 <= len(work.prompt) <= 110 and work.max_tokens == 90


def test_a_context_that_is_too_long_is_read_in_windows_and_the_likeliest_answer_is_given(ask, computing, rng):
    context = " ".join(rng.choice(["tea", "sun", "warm", "cold"], 400))
    messages = [{"role": "system", "content": context}, user("What is warm?")]
    options = {"model": "squad", "messages": messages, "max_tokens": 6, "seed": 4}
    (choice,) = ask.post("/v1/chat/completions", **options).json()["choices"]
    tickets = computing.tickets
    assert len(tickets) > 2 and all(ticket.work.top == 0 for ticket in tickets)
    assert all(np.array_equal(tickets[0].work.prompt[-4:], ticket.work.prompt[-4:]) for ticket in tickets)
    parts = events(ask.post("/v1/chat/completions", stream=True, **options))
    said = "".join(part["choices"][0]["delta"].get("content", "") for part in parts)
    assert said == choice["message"]["content"]


def test_several_answers_are_drawn_by_seeds_of_their_own(ask, computing):
    options = {"model": "chat", "messages": [user("Hi")], "max_tokens": 8}
    body = ask.post("/v1/chat/completions", n=3, seed=11, **options).json()
    said = [choice["message"]["content"] for choice in body["choices"]]
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2] and len({*said}) == 3
    second = ask.post("/v1/chat/completions", seed=12, **options).json()
    assert second["choices"][0]["message"]["content"] == said[1]


@pytest.mark.parametrize(
    ("model", "body", "param", "word"),
    [
        ("chat", {}, "messages", "list of messages"),
        ("chat", {"messages": []}, "messages", "one at least"),
        ("chat", {"messages": "Hi"}, "messages", "list of messages"),
        ("chat", {"messages": ["Hi"]}, "messages[0]", "object"),
        ("chat", {"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "tool"),
        ("chat", {"messages": [{"role": "user"}]}, "messages[0].content", "text"),
        ("chat", {"messages": [user("  ")]}, "messages[0].content", "empty"),
        ("chat", {"messages": [user("Hi"), {**ASSISTANT, "content": 0}]}, "messages[1].content", "text"),
        ("chat", {"messages": [user([{"type": "image_url", "image_url": {}}])]}, "messages[0].content", "no text"),
        ("chat", {"messages": [{**user("Hi"), "tool_calls": [1]}]}, "messages[0].tool_calls", "not supported"),
        ("chat", {"messages": [user("Hi"), user("Hi")]}, "messages", "take turns"),
        ("chat", {"messages": [user("Hi"), ASSISTANT]}, "messages", "the user's"),
        ("chat", {"messages": [ASSISTANT, user("Hi")]}, "messages", "take turns"),
        ("chat", {"messages": [user("Hi"), SYSTEM]}, "messages", "take turns"),
        ("chat", {"messages": [SYSTEM]}, "messages", "the user's"),
        ("dailydialog", {"messages": [SYSTEM, user("Hi")]}, "messages", "system message"),
        ("complete", {"messages": [SYSTEM, user("Hi")]}, "messages", "system message"),
        ("complete", {"messages": [user("Hi"), ASSISTANT, user("Hi")]}, "messages", "one message"),
        ("squad", {"messages": [user("What?")]}, "messages", "context"),
        ("squad", {"messages": [SYSTEM, user("What?"), ASSISTANT, user("What?")]}, "messages", "one message"),
        ("instruct", {"messages": [user("sing " * 300)]}, "messages", "fit"),
        ("chat", {"messages": [user("sing " * 300)]}, "messages", "fit"),
        ("classify", {"messages": [user("Hi")]}, "model", "/v1/classify"),
        ("chat", {"messages": [user("Hi")], "max_tokens": 0}, "max_tokens", "1 to 200"),
        ("chat", {"messages": [user("Hi")], "max_tokens": 201}, "max_tokens", "1 to 200"),
        ("chat", {"messages": [user("Hi")], "max_tokens": 3, "max_completion_tokens": 4}, "max_tokens", "the same"),
        ("chat", {"messages": [user("Hi")], "top_logprobs": 2}, "top_logprobs", "logprobs"),
        ("chat", {"messages": [user("Hi")], "logprobs": True, "top_logprobs": 21}, "top_logprobs", "20"),
        ("chat", {"messages": [user("Hi")], "logprobs": 1}, "logprobs", "true or false"),
        ("chat", {"messages": [user("Hi")], "best_of": 1}, "best_of", "not supported"),
        ("chat", {"messages": [user("Hi")], "tools": [{"type": "function"}]}, "tools", "not supported"),
        ("chat", {"messages": [user("Hi")], "tool_choice": "required"}, "tool_choice", "not supported"),
        ("chat", {"messages": [user("Hi")], "response_format": {"type": "json_object"}}, "response_format", "not"),
        ("chat", {"messages": [user("Hi")], "store": True}, "store", "not supported"),
        ("chat", {"messages": [user("Hi")], "reasoning_effort": "low"}, "reasoning_effort", "not supported"),
    ],
)
def test_what_cannot_be_done_is_an_error_that_says_so(ask, computing, model, body, param, word):
    answer = ask.post("/v1/chat/completions", model=model, **body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param and word in error["message"], error
    assert not computing.tickets


def test_what_asks_for_nothing_may_be_there(ask):
    neutral = {"n": 1, "logit_bias": None, "user": "x", "store": False, "tools": [], "tool_choice": "auto"}
    neutral |= {"response_format": {"type": "text"}, "parallel_tool_calls": True, "service_tier": "auto"}
    neutral |= {"metadata": {"a": "b"}, "modalities": ["text"], "logprobs": False, "stop": [], "audio": None}
    messages = [{**user("Hi"), "name": "Ann"}, {**ASSISTANT, "refusal": None, "tool_calls": None}, user("Tea?")]
    answer = ask.post("/v1/chat/completions", model="chat", messages=messages, max_tokens=2, **neutral)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(("task", "penalised"), [("e2e", False), ("squad", True)])
def test_penalties_of_repetition_look_at_the_prompt_as_the_tasks_kind_says(tokenizer, task, penalised):
    """An E2E adapter is to say its prompt's words: `generate.py` lets it."""
    models = {"nano": served("nano", tasks.find("text"), tokenizer)}
    models[task] = served(task, tasks.find(task), tokenizer, "nano", no_repeat_ngram_size=4)
    with Running(FakeComputing(models)) as computing:
        Asker(computing).post("/v1/completions", model=task, prompt="name : Aromi", max_tokens=1)
        (ticket,) = computing.tickets
    assert ticket.work.penalise_prompt is penalised
