"""Tokenizers with regular expressions that take for ever: one line, in time."""

import json
import os
import threading
import time

import pytest
import tiny

from common.errors import UserError
from common.limit import in_time
from datasets.encode import tokenise
from gpt2_jittor.checkpoint import patterns
from gpt2_jittor.checkpoint.tokenizer import load_tokenizer, save_tokenizer, text_of

EXPLODES = {"Regex": r"(a|aa|a?a)+$"}  # by a power of the length, at each place
SLOW = {"Regex": r"(a|aa){1,9}(a|aa){1,9}b"}  # within the library's limit at each place, but there are many


def with_pattern(folder, place: str, pattern: dict):
    """The byte tokenizer with a pattern in its normalizer, pre-tokenizer or decoder."""
    tiny.save_tokenizer(folder)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    replace = {"type": "Replace", "pattern": pattern, "content": "x"}
    split = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    if place == "normalizer":
        content["normalizer"] = replace
    elif place == "pre_tokenizer":
        content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, content["pre_tokenizer"]]}
    else:  # in a sequence, for what is GPT-2's own is rebuilt by transformers, with its decoder
        content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [content["pre_tokenizer"]]}
        content["decoder"] = {"type": "Sequence", "decoders": [content["decoder"], replace]}
    path.write_text(json.dumps(content))
    return load_tokenizer(folder)


def ids_of(text: str, tokenizer) -> list[int]:
    (ids,) = tokenise([(text, False)], tokenizer)
    return ids


@pytest.mark.parametrize("place", ["normalizer", "pre_tokenizer"])
def test_a_pattern_that_explodes_is_told_without_a_dump(tmp_path, capfd, place):
    tokenizer = with_pattern(tmp_path, place, EXPLODES)
    message = f"{tmp_path}/tokenizer.json: a pattern in it takes too long on this text; use another tokenizer"
    with pytest.raises(UserError, match=f"^{message}$"):
        ids_of("a" * 60 + "!", tokenizer)
    assert capfd.readouterr().err == ""
    assert text_of(ids_of("tea!", tokenizer), tokenizer) == "tea!", "it can be used on other text"


def test_a_pattern_that_explodes_when_an_answer_is_decoded_is_told(tmp_path, capfd):
    tokenizer = with_pattern(tmp_path, "decoder", EXPLODES)
    with pytest.raises(UserError, match="a pattern in it takes too long"):
        text_of([64] * 60 + [0], tokenizer)
    assert capfd.readouterr().err == ""


def test_a_text_on_which_a_pattern_is_slow_at_each_place_is_given_up(tmp_path, monkeypatch):
    tokenizer = with_pattern(tmp_path, "pre_tokenizer", SLOW)
    monkeypatch.setattr(patterns, "SECONDS", 0.5)
    monkeypatch.setattr(patterns, "CHARACTERS_A_SECOND", 1e9)
    started = time.monotonic()
    with pytest.raises(UserError, match="a pattern in it takes too long"):
        ids_of("a" * 3000, tokenizer)
    assert time.monotonic() - started < 20


def test_a_tokenizer_with_a_harmless_pattern_is_used_and_saved_as_any_other(tmp_path):
    tokenizer = with_pattern(tmp_path, "pre_tokenizer", {"Regex": r"\\d"})
    plain = tmp_path / "plain"
    plain.mkdir()
    text = "tea 1 <|endoftext|> ü" * 99
    assert ids_of(text, tokenizer) == ids_of(text, tiny.byte_tokenizer(plain))
    save_tokenizer(tokenizer, tmp_path / "saved")
    assert ids_of(text, load_tokenizer(tmp_path / "saved")) == ids_of(text, tokenizer)


def test_what_is_bounded_returns_and_raises_as_it_is():
    assert in_time(lambda: 3, 9, ValueError()) == 3
    with pytest.raises(KeyError, match="own"):
        in_time(lambda: {}["own"], 9, ValueError())
    with pytest.raises(ValueError, match="late"):
        in_time(lambda: time.sleep(9), 0.05, ValueError("late"))


@pytest.mark.parametrize(
    ("part", "settings"),
    [("pre_tokenizer", {"type": "FixedLength", "length": 0}), ("normalizer", {"type": "Precompiled", "x": "AAAA////"})],
)
def test_a_part_that_panics_or_cannot_be_read_is_told_without_a_dump(tmp_path, capfd, part, settings):
    tiny.save_tokenizer(tmp_path)
    path = tmp_path / "tokenizer.json"
    if "x" in settings:
        settings = {"type": settings["type"], "precompiled_charsmap": settings["x"]}
    path.write_text(json.dumps(json.loads(path.read_text()) | {part: settings}))
    with pytest.raises(UserError, match="use another tokenizer|get its files again"):
        ids_of("tea!", load_tokenizer(tmp_path))
    assert capfd.readouterr().err == ""


def test_of_two_threads_that_silence_stderr_the_last_one_gives_it_back(capfd):
    first, second, back = threading.Event(), threading.Event(), threading.Event()

    def other():
        first.wait(9)
        with patterns._without_dump():
            second.set()
            back.wait(9)
            os.write(2, b"a dump")

    thread = threading.Thread(target=other)
    thread.start()
    with patterns._without_dump():
        first.set()
        second.wait(9)
    back.set()
    thread.join()
    os.write(2, b"said")
    assert capfd.readouterr().err == "said"
