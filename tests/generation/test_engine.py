"""The engine in Python: text in, text out; and what it keeps of one text for a next one that begins alike."""

import json
import shutil

import numpy as np
import pytest
import tiny
import torch
import transformers

import generation
from common.errors import UserError
from datasets import tasks
from datasets.encode import IGNORED
from datasets.example import Example, Segment
from generation import running
from generation.engine import Engine
from generation.options import GenerationOptions
from generation.prefixes import Prefixes
from gpt2_jittor.checkpoint.tokenizer import load_tokenizer

CHAT, EMOTION, SQUAD, TEXT = (tasks.find(name) for name in ("dailydialog", "emotion", "squad", "text"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.model_folder(tmp_path_factory.mktemp("model"), seed=6, vocab_size=257)


@pytest.fixture
def engine(folder, model):
    def made(task=TEXT, **options) -> Engine:
        options = {"greedy": True, "max_new_tokens": 12} | options
        return Engine(model, load_tokenizer(folder), task, GenerationOptions(**options))

    return made


@pytest.fixture
def fed(monkeypatch) -> list[int]:
    """How many ids the model was given at each step."""
    counts, original = [], running.logits_on_device

    def counting(model, ids, *more):
        counts.append(ids.shape[1])
        return original(model, ids, *more)

    monkeypatch.setattr(running, "logits_on_device", counting)
    return counts


def said(engine: Engine, asked) -> str:
    return "".join(engine.stream(asked))


def random_text(rng, length: int) -> str:
    return "".join(rng.choice(list("abcdefg "), length))


def test_text_in_text_out(folder):
    engine = generation.load(str(folder), greedy=True, max_new_tokens=9)
    one = engine.answer("the warm tea")
    assert isinstance(one, str) and one == said(engine, "the warm tea") != ""
    assert engine.answer(["the warm tea", "a sun"]) == [one, engine.answer("a sun")]
    assert engine.answers([engine.example("a sun")])[0][0].text == engine.answer("a sun")


def test_options_are_those_given_else_the_folders_else_a_conversations(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    said = {"repetition_penalty": 1.4, "top_k": 9, "eos_token_id": [256, 7]}
    (copy / "generation_config.json").write_text(json.dumps(said))
    options = generation.load(copy, top_k=3, samples=2).options
    assert options == GenerationOptions(repetition_penalty=1.4, top_k=3, samples=2, end_ids=(256, 7))
    with pytest.raises(UserError, match="^greedy draws nothing: leave out top_k$"):
        generation.load(copy, greedy=True, top_k=3)


def test_fields_are_given_by_name_and_one_that_is_missing_is_told(engine):
    asking = engine(SQUAD)
    assert isinstance(asking.answer({"context": "Tea is warm.", "question": "What?"}), str)
    with pytest.raises(UserError, match="^the field 'question' is missing: squad needs context, question$"):
        asking.answer("Tea is warm.")


@pytest.mark.parametrize("how", [{}, {"greedy": False, "seed": 3, "temperature": 1.3}])
def test_what_is_kept_of_one_text_changes_no_other(engine, rng, how):
    """Prompts that share beginnings of any length with the one before, longer and shorter ones, the same one twice."""
    keeping, prompt = engine(**how), random_text(rng, 40)
    fresh = engine(**how)
    for _ in range(12):
        fresh._prefixes = Prefixes(0)
        assert said(keeping, prompt) == said(fresh, prompt)
        cut = int(rng.integers(0, len(prompt) + 1))
        prompt = (prompt[:cut] + random_text(rng, int(rng.integers(0, 20))))[:70] or prompt


def test_a_chats_next_turn_costs_what_is_new(engine, fed):
    chat = engine(CHAT)
    first = said(chat, chat.example({"prompt": "Do you like tea?"}))
    turn = len(fed)
    assert fed[0] == len("Do you like tea?") + 1 and set(fed[1:]) <= {1}
    example = chat.example({"prompt": "And the sun?"}, ["Do you like tea?", first])
    (ids,) = chat.encode(example).windows
    (kept,) = CHAT.encode_prompt(CHAT.prompt(["Do you like tea?"]), chat.tokenizer, 99)
    spelled = chat.tokenizer.encode(first)
    assert ids[: len(kept)].tolist() == kept.tolist()
    said(chat, example)
    # the answer's ids were fed, but for the last one; where its text is spelled otherwise, a few are fed again
    assert fed[turn] <= len(ids) - len(kept) and (fed[turn] < len(ids) - len(kept) or not spelled)


def test_what_is_asked_alone_is_not_read_again_and_what_is_asked_together_is_not_kept(engine, rng, fed):
    asking, first, other = engine(), random_text(rng, 30), random_text(rng, 9)
    asking.answer([first, other])
    fed.clear()
    asking.answer(first)
    assert fed[0] == 30
    fed.clear()
    assert asking.answer(first + "b") == engine().answer(first + "b")
    assert fed[0] == 1


def test_scores_are_the_models_own_of_what_is_said_behind_what_is_given(engine, folder, rng):
    """Beside transformers, one example at a time and without a pad."""
    turns = [[random_text(rng, 9), random_text(rng, 12)], [random_text(rng, 3), "a", random_text(rng, 20)]]
    chat = engine(CHAT)
    examples = [Example(tuple(Segment(t.strip() or "a", scored=i > 0) for i, t in enumerate(each))) for each in turns]
    theirs = transformers.GPT2LMHeadModel.from_pretrained(folder).eval()
    for (log_prob, count), item in zip(
        chat.scores(examples), CHAT.encode(examples, chat.tokenizer, 99).items, strict=True
    ):
        ids = torch.tensor(item.input_ids[None]).long()
        with torch.no_grad():
            log_probs = theirs(ids).logits[0].double().log_softmax(-1)
        scored = np.flatnonzero(item.labels[1:] != IGNORED)
        expected = sum(log_probs[place, item.labels[place + 1]].item() for place in scored)
        assert (count, log_prob) == (len(scored), pytest.approx(expected, rel=1e-5))
    with pytest.raises(UserError, match="fit"):
        chat.scores([Example((Segment("a", scored=False), Segment("b" * 200, scored=True)))])


def test_a_stream_that_nobody_reads_to_its_end_leaves_no_trace(engine, rng):
    keeping, prompt = engine(), random_text(rng, 30)
    pieces = keeping.stream(prompt)
    next(pieces)
    assert said(keeping, prompt + "b") == said(engine(), prompt + "b")
    assert said(keeping, prompt) == said(engine(), prompt)


def test_a_step_that_fails_leaves_no_trace(engine, rng, monkeypatch):
    keeping, prompt = engine(), random_text(rng, 30)
    said(keeping, prompt)
    original, calls = running.logits_on_device, []

    def failing(model, ids, cache, *more):
        calls.append(original(model, ids, cache, *more))
        calls[-1].sync()  # the cache has taken up what nobody hears of
        if len(calls) == 3:
            raise KeyboardInterrupt
        return calls[-1]

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(running, "logits_on_device", failing)
        said(keeping, prompt + " c")
    for again in (prompt + " c", prompt + " c d", prompt):
        assert said(keeping, again) == said(engine(), again)


def test_two_streams_of_one_engine_do_not_mix(engine, rng):
    for _ in range(4):
        keeping, common = engine(), random_text(rng, 20)
        prompts = [common + random_text(rng, 9) for _ in range(2)]
        said(keeping, common)
        streams, texts = [keeping.stream(prompt) for prompt in prompts], ["", ""]
        for _ in range(30):
            for index in rng.permutation(2):
                texts[index] += next(streams[index], "")
        assert texts == [said(engine(), prompt) for prompt in prompts]


def test_what_a_task_does_not_do_is_told_in_one_line(engine, folder, tmp_path):
    with pytest.raises(UserError, match="^text has no classes: let it answer$"):
        engine().classify("a")
    classifier = generation.load(tiny.classifier_folder(tmp_path / "classifier", 3, EMOTION.labels), task="emotion")
    assert sum(classifier.classify("i feel warm").values()) == pytest.approx(1)
    for act in (classifier.answer, said_by(classifier)):
        with pytest.raises(UserError, match="^emotion has classes and says nothing: let it classify$"):
            act("i feel warm")


def said_by(engine: Engine):
    return lambda asked: said(engine, asked)


def test_texts_that_training_packs_are_scored_one_by_one(engine, rng):
    texts = [random_text(rng, length) for length in (5, 150, 30)]
    examples = [Example((Segment(text, scored=True),)) for text in texts]
    together = engine().scores(examples)
    assert [count for _, count in together] == [5, 149, 30]  # of a text of two windows each window's first is given
    assert together == [pytest.approx(engine().scores([example])[0], rel=1e-5) for example in examples]


def test_a_long_chat_is_cut_from_the_front_and_begins_anew(engine, rng):
    chat, history = engine(CHAT, max_new_tokens=6), []
    for number in range(9):
        example = chat.example({"prompt": f"{number} {random_text(rng, 9)}"}, history)
        answer = said(chat, example)
        assert answer == said(engine(CHAT, max_new_tokens=6), example)
        history += [example.segments[-1].text or example.segments[-2].text, answer or "a"]
    assert np.prod([len(window) for window in chat.encode(example).windows]) <= 95
