"""Answers: what is certain is given out, whatever the tokens' borders, and adds up to the text of all tokens."""

import json

import numpy as np
import pytest
from computing import served

from datasets import tasks
from gpt2_jittor.checkpoint.tokenizer import load_tokenizer, text_of
from serving.answers import Answer, likeliest
from serving.pieces import BYTES
from serving.work import END, LENGTH, Token


@pytest.fixture
def model(tokenizer):
    return served("nano", tasks.find("text"), tokenizer)


def given_out(answer, ids, ends=LENGTH):
    """All deltas of an answer that says these ids."""
    last = len(ids) - 1
    return [answer.push(Token(token, -1.0, (), ends if index == last else None)) for index, token in enumerate(ids)]


@pytest.mark.parametrize("keeps_space", [True, False])
def test_the_pieces_of_random_tokens_add_up_to_their_text(model, rng, keeps_space):
    for _ in range(50):
        ids = rng.integers(0, 600, rng.integers(1, 40)).tolist()  # of single bytes and short pieces, end tokens too
        answer = Answer(model, (), keeps_space)
        deltas = given_out(answer, ids)
        expected = text_of(ids, model.tokenizer)
        assert answer.text == "".join(delta.text for delta in deltas)
        assert answer.text == (expected if keeps_space else expected.strip())
        assert [each.token.id for each in answer.scored] == ids and answer.finish == "length"
        assert answer.tokens == len(ids) and answer.score == -1.0


def test_nothing_is_given_out_that_a_stop_string_takes_back(model, rng):
    for _ in range(50):
        ids = rng.integers(1, 300, 60).tolist()
        text = text_of(ids, model.tokenizer)
        start = int(rng.integers(0, len(text) - 3))
        stop = text[start : start + int(rng.integers(1, 4))]
        answer = Answer(model, (stop,), keeps_space=True)
        shown = ""
        for index, token in enumerate(ids, 1):
            shown += answer.push(Token(token, ends=LENGTH if index == len(ids) else None)).text
            assert stop not in shown and text.startswith(shown)
            if answer.finish:
                break
        assert answer.finish == "stop" and shown == text.split(stop)[0] and shown == answer.text
        assert all(each.offset < len(shown) for each in answer.scored)


def test_an_end_token_is_no_text_and_no_scored_token_unless_it_is_text_itself(model, tokenizer):
    end, stop = tokenizer.eos_token_id, tokenizer(".")["input_ids"][0]
    answer = Answer(model, (), keeps_space=True)
    given_out(answer, [*tokenizer(" Tea")["input_ids"], end], END)
    assert answer.text == " Tea" and end not in [each.token.id for each in answer.scored] and answer.finish == "stop"
    answer = Answer(model, (), keeps_space=True)
    given_out(answer, [stop], END)
    assert answer.text == "." and [each.token.id for each in answer.scored] == [stop]


def test_offsets_are_where_tokens_begin_in_the_text(model, tokenizer, rng):
    ids = tokenizer("né 😀 – 茶!")["input_ids"]
    answer = Answer(model, (), keeps_space=True)
    given_out(answer, ids)
    pieces = model.pieces
    assert [each.offset for each in answer.scored] == list(pieces.offsets(ids))
    assert b"".join(pieces.data(token) for token in ids).decode() == answer.text == pieces.text(ids)


def test_a_token_that_ends_within_a_character_counts_the_whole_ones_before_it(tmp_path):
    """As GPT-2's first token of ` “` does: a space, and two of the character's three bytes."""
    space, first, second, third = [
        next(character for character, value in BYTES.items() if value == byte) for byte in " “".encode()
    ]
    names = [*BYTES, space + first, space + first + second, "<|endoftext|>"]
    (tmp_path / "vocab.json").write_text(json.dumps({name: index for index, name in enumerate(names)}))
    (tmp_path / "merges.txt").write_text(f"{space} {first}\n{space}{first} {second}\n")
    tokenizer = load_tokenizer(tmp_path)
    model = served("quoting", tasks.find("text"), tokenizer)
    ids = tokenizer(" “H")["input_ids"]
    assert ids == [names.index(space + first + second), names.index(third), names.index("H")]
    answer, stopped = Answer(model, (), keeps_space=True), Answer(model, ("“",), keeps_space=True)
    given_out(answer, ids)
    assert answer.text == " “H" and [each.offset for each in answer.scored] == [0, 1, 2] == [*model.pieces.offsets(ids)]
    for token in ids[:2]:
        stopped.push(Token(token))
    assert (stopped.text, stopped.finish) == (" ", "stop") and [each.token.id for each in stopped.scored] == ids[:1]


def test_the_likeliest_by_the_mean_come_first_and_equal_ones_in_order(model):
    answers = []
    for values in ([-1.0, -3.0], [-1.5], [-0.5] * 9, [-2.0]):
        answers.append(Answer(model, (), keeps_space=True))
        for value in values:
            answers[-1].push(Token(5, value))
    assert likeliest(answers, 3) == [answers[2], answers[1], answers[0]]
    assert np.allclose([each.score for each in answers], [-2, -1.5, -0.5, -2])
