"""POST /v1/completions: texts, log-probabilities and choices, each beside what was computed."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from computing import logits_after

from serving.work import Continuation, Scoring

ENVELOPE = {"object": "text_completion", "model": "nano", "system_fingerprint": None}


def reference(before: int, vocab: int) -> torch.Tensor:
    """The log-probabilities of what follows a token, by torch."""
    return torch.log_softmax(torch.from_numpy(logits_after(before, vocab)), dim=-1)


def events(answer) -> list:
    """What a stream's events hold, but for its end."""
    lines = answer.text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""] and all(line.startswith("data: {") for line in lines[:-2])
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


def test_an_answer_has_exactly_the_fields_of_the_api(ask, computing, tokenizer):
    computing.script = tokenizer(" like tea")["input_ids"]
    answer = ask.post("/v1/completions", model="nano", prompt="We", temperature=0)
    assert answer.status_code == 200
    body = answer.json()
    assert body.pop("id").startswith("cmpl-") and isinstance(body.pop("created"), int)
    assert body == {
        **ENVELOPE,
        "choices": [{"index": 0, "text": " like tea", "logprobs": None, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": len(tokenizer("We")["input_ids"]),
            "completion_tokens": 3,  # two words and the end token
            "total_tokens": len(tokenizer("We")["input_ids"]) + 3,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }


@pytest.mark.parametrize("stream", [False, True])
def test_what_was_known_of_each_prompt_is_counted_once_whatever_is_made_of_it(ask, computing, stream):
    computing.kept = 2
    given = {"model": "nano", "prompt": [[5, 6, 7], [8, 9, 10, 11]], "n": 3, "max_tokens": 2}
    more = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    answer = ask.post("/v1/completions", **given, **more)
    used = (events(answer)[-1] if stream else answer.json())["usage"]
    assert used["prompt_tokens"] == 7 and used["prompt_tokens_details"] == {"cached_tokens": 4}


def test_a_prompt_is_continued_as_it_stands_for_sixteen_tokens_unless_it_says_otherwise(ask, computing, tokenizer):
    ask.post("/v1/completions", model="nano", prompt="  <|endoftext|> Tea ")
    ask.post("/v1/completions", model="squad", prompt=[5, 6, 7], max_tokens=3)
    ask.post("/v1/completions", model="nano")
    first, second, third = (ticket.work for ticket in computing.tickets)
    assert tokenizer.decode(first.prompt) == "  <|endoftext|> Tea " and tokenizer.eos_token_id not in first.prompt
    assert (first.max_tokens, first.top, first.end_ids) == (16, None, {tokenizer.eos_token_id})
    assert (second.model, second.prompt.tolist(), second.max_tokens) == ("squad", [5, 6, 7], 3)
    assert third.prompt.tolist() == [tokenizer.eos_token_id], "no prompt is the beginning of a document"


def test_what_an_evaluation_harness_sends_is_scored_token_by_token(ask, computing, tokenizer, rng):
    """lm-evaluation-harness's local-completions: lists of ids, echo, logprobs 1, max_tokens 1, a seed."""
    prompts = [rng.integers(0, 8000, size).tolist() for size in (7, 1, 12)]
    options = {"temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}
    body = ask.post("/v1/completions", model="nano", prompt=prompts, **options).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    for prompt, choice in zip(prompts, body["choices"], strict=True):
        found = choice["logprobs"]
        known = [reference(before, 8192) for before in prompt]
        chosen = [*prompt[1:], int(known[-1].argmax())]
        expected = [float(each[token]) for each, token in zip(known, chosen, strict=True)]
        assert found["token_logprobs"][0] is None and found["top_logprobs"][0] is None
        assert np.allclose(found["token_logprobs"][1:], expected, atol=1e-5)
        greatest = [max(each.values()) for each in found["top_logprobs"][1:]]
        assert np.allclose(greatest, [float(each.max()) for each in known], atol=1e-5)
        # how the harness finds out whether a text is the greedy one
        assert [a == b for a, b in zip(found["token_logprobs"][1:], greatest, strict=True)] == [
            int(each.argmax()) == token for each, token in zip(known, chosen, strict=True)
        ]
        assert len(found["tokens"]) == len(found["text_offset"]) == len(prompt) + 1
    assert body["usage"]["prompt_tokens"] == 20 and body["usage"]["completion_tokens"] == 3


def test_an_end_token_that_a_prompt_begins_with_begins_a_document(ask, computing, tokenizer):
    """lm-evaluation-harness sends it so, where it sends no ids, before a text of which every token is scored."""
    given = {"prompt": ["<|endoftext|>Tea <|endoftext|>", "<|endoftext|>"], "echo": True, "logprobs": 0}
    body = ask.post("/v1/completions", model="nano", max_tokens=1, **given).json()
    work = [ticket.work for ticket in computing.tickets if isinstance(ticket.work, Continuation)]
    first, second = (each.prompt.tolist() for each in work)
    assert first[0] == tokenizer.eos_token_id and tokenizer.decode(first[1:]) == "Tea <|endoftext|>"
    assert tokenizer.eos_token_id not in first[1:] and second == [tokenizer.eos_token_id]
    assert all(choice["text"].startswith(text) for choice, text in zip(body["choices"], given["prompt"], strict=True))
    assert body["choices"][0]["logprobs"]["text_offset"][1] == len("<|endoftext|>")


@pytest.mark.parametrize("stream", [False, True])
def test_an_end_token_is_scored_though_it_is_no_text(ask, computing, tokenizer, stream):
    """lm-evaluation-harness cuts off what was generated, a token, to be left with those of its prompt."""
    computing.script = []
    given = {"prompt": [5, 6, 7], "echo": True, "logprobs": 1, "max_tokens": 1, "stream": stream}
    answer = ask.post("/v1/completions", model="nano", **given)
    choices = [body["choices"][0] for body in (events(answer) if stream else [answer.json()])]
    assert "".join(choice["text"] for choice in choices) == tokenizer.decode([5, 6, 7])
    assert choices[-1]["finish_reason"] == "stop"
    found = {name: sum((choice["logprobs"][name] for choice in choices), []) for name in choices[0]["logprobs"]}
    assert {name: len(values) for name, values in found.items()} == dict.fromkeys(found, 4)
    assert found["tokens"][-1] == tokenizer.eos_token and found["token_logprobs"][-1] <= 0


def test_offsets_and_names_of_tokens_are_those_of_the_echoed_text(ask, computing, tokenizer):
    computing.script = tokenizer(" né 😀!")["input_ids"]
    given = "Tea – 茶, é"
    body = ask.post("/v1/completions", model="nano", prompt=given, echo=True, logprobs=0, max_tokens=40).json()
    (choice,) = body["choices"]
    text, found = choice["text"], choice["logprobs"]
    assert text == given + " né 😀!"
    assert (found["tokens"][-1], found["text_offset"][-1]) == (tokenizer.eos_token, len(text))  # it is no text
    starts = [*found["text_offset"], len(text)]
    spelled = 0
    for name, start, end in zip(found["tokens"][:-1], starts, starts[1:], strict=False):
        if not name.startswith("bytes:"):
            assert text[start:end] == name
            spelled += 1
    assert 0 < spelled < len(found["tokens"]), "some tokens are parts of characters"
    assert [list(each) for each in found["top_logprobs"][1:]] == [[name] for name in found["tokens"][1:]]


def test_echo_without_an_answer_computes_nothing_but_the_scores(ask, computing):
    body = ask.post("/v1/completions", model="nano", prompt="Tea is", echo=True, max_tokens=0, logprobs=2).json()
    assert body["choices"][0]["text"] == "Tea is" and body["choices"][0]["finish_reason"] == "length"
    assert [type(ticket.work) for ticket in computing.tickets] == [Scoring]
    assert body["usage"]["completion_tokens"] == 0


def test_several_answers_to_several_prompts_are_numbered_in_order(ask, computing):
    body = ask.post("/v1/completions", model="nano", prompt=["Tea", "Sun"], n=2, max_tokens=4, seed=7).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    texts = [choice["text"] for choice in body["choices"]]
    assert len({*texts}) == 4, "each draw has a seed of its own"
    alone = [ask.post("/v1/completions", model="nano", prompt="Sun", max_tokens=4, seed=seed) for seed in (7, 8)]
    assert [each.json()["choices"][0]["text"] for each in alone] == texts[2:]


def test_best_of_keeps_the_likeliest(ask, computing):
    options = {"prompt": "Tea", "max_tokens": 5, "seed": 3}
    every = ask.post("/v1/completions", model="nano", n=6, logprobs=0, **options).json()["choices"]
    means = [np.mean(choice["logprobs"]["token_logprobs"]) for choice in every]
    best = ask.post("/v1/completions", model="nano", n=2, best_of=6, **options).json()
    expected = [every[index]["text"] for index in np.argsort(means)[::-1][:2]]
    assert [choice["text"] for choice in best["choices"]] == expected
    assert best["usage"]["completion_tokens"] == 30 and best["choices"][0]["logprobs"] is None


@pytest.mark.parametrize("stop", ["tea", ["sun", " te"], "ea. W"])
def test_a_text_ends_before_a_stop_string_and_its_work_is_cancelled(ask, computing, tokenizer, stop):
    said = " We like tea. We drink it."
    computing.script = tokenizer(said)["input_ids"]
    options = {"model": "nano", "prompt": "Hi", "stop": stop, "max_tokens": 50, "logprobs": 0}
    expected = min((said.split(each)[0] for each in ([stop] if isinstance(stop, str) else stop)), key=len)
    body = ask.post("/v1/completions", **options).json()
    assert body["choices"][0]["text"] == expected and body["choices"][0]["finish_reason"] == "stop"
    assert all(start < len(expected) for start in body["choices"][0]["logprobs"]["text_offset"])
    assert computing.tickets[-1].cancelled
    parts = events(ask.post("/v1/completions", stream=True, **options))
    assert "".join(part["choices"][0]["text"] for part in parts) == expected


def test_a_stream_says_piece_by_piece_what_an_answer_says_at_once(ask, computing):
    options = {"prompt": ["Tea", [9, 8, 7]], "max_tokens": 12, "seed": 5, "logprobs": 3, "echo": True, "n": 2}
    options |= {"temperature": 1.5, "stop": [".", "e "]}
    whole = ask.post("/v1/completions", model="nano", **options).json()
    parts = events(
        ask.post("/v1/completions", model="nano", stream=True, stream_options={"include_usage": True}, **options)
    )
    assert len({part["id"] for part in parts}) == 1 and all(part["object"] == "text_completion" for part in parts)
    assert parts[-1]["choices"] == [] and parts[-1]["usage"] == whole["usage"]
    assert all(part["usage"] is None for part in parts[:-1])
    for choice in whole["choices"]:
        mine = [each for part in parts[:-1] for each in part["choices"] if each["index"] == choice["index"]]
        assert "".join(each["text"] for each in mine) == choice["text"]
        assert [each["finish_reason"] for each in mine] == [None] * (len(mine) - 1) + [choice["finish_reason"]]
        for name, values in choice["logprobs"].items():
            assert [value for each in mine for value in each["logprobs"][name]] == values


def test_what_a_request_does_not_say_is_the_models(ask, computing, models, tokenizer):
    from computing import served

    computing.served["own"] = served("own", models["nano"].task, tokenizer, "nano", greedy=True, end_ids=(5, 9))
    greedy = [ask.post("/v1/completions", model="own", prompt="Tea").json()["choices"][0]["text"] for _ in range(2)]
    drawn = ask.post("/v1/completions", model="own", prompt="Tea", temperature=1.0, seed=1).json()
    assert greedy[0] == greedy[1] != drawn["choices"][0]["text"]
    assert computing.tickets[0].work.end_ids == {5, 9}
    computing.served["short"] = dataclasses.replace(models["nano"], name="short", tokens=5)
    ask.post("/v1/completions", model="short", prompt="Tea")
    ask.post("/v1/completions", model="short", prompt="Tea", max_tokens=7)
    ask.post("/v1/chat/completions", model="short", messages=[{"role": "user", "content": "Tea"}])
    assert [ticket.work.max_tokens for ticket in computing.tickets[-3:]] == [5, 7, 5]


def test_biases_and_penalties_change_what_is_chosen(ask, computing):
    likeliest = int(logits_after(17, 8192).argmax())
    options = {"model": "nano", "prompt": [17], "max_tokens": 1, "temperature": 0}

    def chosen(**more) -> int:
        assert ask.post("/v1/completions", **options, **more).status_code == 200
        return computing.tickets[-1].generated[0]

    assert chosen() == likeliest
    assert chosen(logit_bias={str(likeliest): -100}) == int(np.argsort(logits_after(17, 8192))[-2])
    assert chosen(logit_bias={"33": 100}) == 33
    # the prompt does not count; to a repetition penalty it does
    again = {**options, "prompt": [17, likeliest, 17]}
    assert ask.post("/v1/completions", **again, presence_penalty=2, frequency_penalty=2).status_code == 200
    assert computing.tickets[-1].generated == [likeliest]
    assert ask.post("/v1/completions", **again, repetition_penalty=50).status_code == 200
    assert computing.tickets[-1].generated != [likeliest]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 256}, "prompt"),  # nothing is left for the prompt
        ({"n": 0}, "n"),
        ({"n": 10**9}, "n"),
        ({"n": 2, "best_of": 1}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"min_p": -1}, "min_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"frequency_penalty": 3}, "frequency_penalty"),
        ({"presence_penalty": -3}, "presence_penalty"),
        ({"seed": 2**64}, "seed"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"echo": "yes"}, "echo"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a", 5]}, "stop"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": "x" * 257}, "stop"),
        ({"stream": 1}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"other": 1}}, "other"),
        ({"logit_bias": {"8192": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"logit_bias": [5]}, "logit_bias"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [8192]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": [5] * 256}, "prompt"),
        ({"prompt": ["a"] * 65}, "prompt"),
        ({"prompt": "tea " * 400}, "prompt"),
        ({"suffix": "end"}, "suffix"),
        ({"use_beam_search": False}, "use_beam_search"),
        ({"min_tokens": 1}, "min_tokens"),
        ({"guided_json": {}}, "guided_json"),
        ({"model": "classify"}, "model"),
        ({"model": 5}, "model"),
        ({"model": None}, "model"),
    ],
)
def test_what_cannot_be_done_is_an_error_with_the_parameters_name(ask, computing, body, param):
    answer = ask.post("/v1/completions", **{"model": "nano", "prompt": "Tea", **body})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param and error["type"] == "invalid_request_error" and param in error["message"]
    assert not [ticket for ticket in computing.tickets if isinstance(ticket.work, Continuation)]


def test_what_asks_for_nothing_may_be_there(ask):
    neutral = {"n": 1, "best_of": 1, "logit_bias": None, "user": "x", "suffix": None, "stop": None, "echo": False}
    neutral |= {"stream": False, "stream_options": None, "logprobs": None, "top_k": -1, "min_p": 0.0, "seed": -5}
    assert ask.post("/v1/completions", model="nano", prompt="Tea", **neutral).status_code == 200
