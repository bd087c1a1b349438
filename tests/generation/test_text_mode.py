"""Continued text: prompt + answer is the text, to the last character, on every way in and out."""

import json
import sys

import pytest
import tiny
import torch
from console import let_say, record_drawn, session, type_in
from transformers import AutoTokenizer
from transformers import GPT2LMHeadModel as Reference

import generate
from datasets import tasks
from generation.engine import Engine
from generation.options import GenerationOptions
from generation.text import Generated
from gpt2_jittor.checkpoint.tokenizer import text_of

NANO = "checkpoints/gpt2-nano"
TEXT = tasks.find("text")
PROMPTS = [
    "I would like",
    " I would like ",
    "The three colours are:\n",
    "\n\n  Once\tupon",
    "one\r\ntwo\r\n",
    "\ttab\t",
    "Ça va ?  ",
    "你好。今天\u3000",
    "\u00a0🙂 \u2028line",
    "x .  , y 's n't",
    "a<|endoftext|> b ",
    " \n",
]
WAYS = [
    {},
    {"num_beams": 2},
    {"samples": 2, "greedy": False, "seed": 1},
    {"num_beams": 3, "samples": 2},
    {"stop": ("zq",)},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.model_folder(tmp_path_factory.mktemp("model"), seed=3, vocab_size=257)


@pytest.fixture(scope="module")
def expected() -> list[str]:
    """What transformers says, greedily, to each of the prompts."""
    tokenizer, model = AutoTokenizer.from_pretrained(NANO), Reference.from_pretrained(NANO, dtype=torch.float32).eval()
    answers = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt", split_special_tokens=True)
        with torch.no_grad():
            whole = model.generate(**ids, do_sample=False, max_new_tokens=12, pad_token_id=0)[0]
        answers.append(tokenizer.decode(whole[ids.input_ids.shape[1] :], skip_special_tokens=True))
    assert any(text != text.strip() for text in answers)
    return answers


def run(monkeypatch, capsys, *options) -> str:
    monkeypatch.setattr(sys, "argv", ["generate.py", "--model", "nano", "--greedy", "--max-new-tokens", "12", *options])
    generate.main()
    return capsys.readouterr().out


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("prompt", PROMPTS)
def test_prompt_and_answer_are_what_their_ids_spell(folder, model, monkeypatch, prompt, way):
    """On a model of bytes, whose answers hold spaces, control characters and broken characters of all kinds."""
    from generation import beam

    made, talk = [], session(folder, model, "text", max_new_tokens=16, **way)
    drawn, whole = record_drawn(monkeypatch), beam.beam_search
    monkeypatch.setattr(beam, "beam_search", lambda *a, **k: made.extend(found := whole(*a, **k)) or found)
    (told,) = talk.results([{"prompt": prompt}])
    several = [one for group in made for one in group] + [generated for _, generated in drawn]
    (ids,) = TEXT.encode_prompt(TEXT.prompt(prompt), talk.engine.tokenizer, 99)
    spelled = {text_of([*ids, *generated.ids], talk.engine.tokenizer) for generated in several}
    assert told["prompt"] == prompt and several
    assert {told["prompt"] + answer for answer in told.get("answers", [told["answer"]])} == spelled


def test_a_file_of_prompts_is_continued_as_transformers_continues_it(monkeypatch, capsys, tmp_path, expected):
    given, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    given.write_text("".join(json.dumps({"prompt": prompt}) + "\r\n" for prompt in PROMPTS))
    run(monkeypatch, capsys, "--input", str(given), "--output", str(output))
    told = [json.loads(line) for line in output.read_text(encoding="utf-8").split("\n")[:-1]]
    assert [line["prompt"] for line in told] == PROMPTS
    assert [line["answer"] for line in told] == expected


@pytest.mark.parametrize("index", [0, 2, 3, 7, 11])
def test_a_typed_prompt_is_continued_as_transformers_continues_it(monkeypatch, capsys, expected, index):
    told = json.loads(run(monkeypatch, capsys, "--json", "--prompt", PROMPTS[index]))
    assert (told["prompt"], told["answer"]) == (PROMPTS[index], expected[index])
    streamed = run(monkeypatch, capsys, "--prompt", PROMPTS[index])
    assert streamed == expected[index] + "\n"


def test_a_line_that_is_typed_in_a_session_is_continued_with_all_its_spaces(monkeypatch, capsys, expected):
    type_in(monkeypatch, "I would like", "  \t", "\ttab\t", " exit ")
    said = run(monkeypatch, capsys, "--json")
    assert [json.loads(line)["answer"] for line in said.splitlines()] == [expected[0], expected[5]]


@pytest.mark.parametrize("task", ["dailydialog", "squad", "dolly", "emotion", "rte"])
def test_other_modes_trim_what_is_asked_and_nothing_within_it(task):
    """The same prompt, typed or from a file: the task's own function trims."""
    task = tasks.find(task)
    inner = "a  b\n\tc . d"

    def spelled(text: str) -> str:
        asked = dict.fromkeys(task.fields, text)
        example = task.prompt([text]) if task.kind.remembers else task.prompt(**asked)
        return "".join(segment.text for segment in example.segments)

    assert spelled(f" \n{inner}\t\r\n") == spelled(inner)
    assert spelled(inner).count(inner) == len(task.fields)


def test_answers_of_other_modes_have_no_space_around_them(folder, model, monkeypatch):
    tokenizer = session(folder, model, "text").engine.tokenizer
    let_say(monkeypatch, lambda ids: Generated(tokenizer.encode(" \n two  words \n"), True, -1.0, 3))
    for task, answer in (("text", " \n two  words \n"), ("dailydialog", "two  words"), ("dolly", "two  words")):
        task = tasks.find(task)
        prompt = task.prompt(["Hi."]) if task.kind.remembers else task.prompt("Hi.")
        options = GenerationOptions(max_new_tokens=20, greedy=True)
        assert Engine(model, tokenizer, task, options).answer([prompt]) == [answer]
