"""Examples cut to fit, and contexts read in windows: what stays, what goes, and what is never touched."""

import random
import re

import numpy as np
import pytest
import tiny
from places import ROOT, SHARED
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from common.errors import UserError
from datasets.encode import IGNORED
from datasets.example import Example, Segment
from datasets.tasks.squad import prompt
from datasets.truncation import fitted, fitted_prompt, windowed_prompt
from gpt2_jittor.checkpoint.tokenizer import load_tokenizer

NANO = ROOT / "checkpoints" / "gpt2-nano"
GPT2 = SHARED / "gpt2-tokenizer"
ODD = ["\u00a0", "é\u0301", "\n\n", "", "..."]
WORDS = ["the", "tea", "1871", "Ägypten’s", "東京", "🙂🙃", "don't", "(well-known)", *ODD]
END = 256


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    """A token a byte; the end token is 256."""
    folder = tmp_path_factory.mktemp("letters")
    tiny.save_tokenizer(folder)
    return load_tokenizer(folder)


@pytest.fixture(scope="module", params=["letters", "nano", "gpt2"])
def tokenizer(request, letters):
    if request.param == "gpt2" and not GPT2.is_dir():
        pytest.skip(f"GPT-2's tokenizer is not in {GPT2}")
    return letters if request.param == "letters" else load_tokenizer(NANO if request.param == "nano" else GPT2)


def question(context: str, asked: str, answer: str, start: int) -> Example:
    """A SQuAD example: the context must keep its answer."""
    head, body, tail = prompt(context, asked).segments
    body = Segment(body.text, scored=False, end=False, cut=True, keep=(start + 1, start + 1 + len(answer)))
    return Example((head, body, tail, Segment(f" {answer}", scored=True)), "here:1")


def parted(ids, tokenizer, tail: str) -> list[int]:
    """The context's ids, out of an example's: those between "Context:" and `tail`."""
    head, tail = tokenizer("Context:")["input_ids"], tokenizer(tail)["input_ids"]
    ids = list(ids)
    assert (ids[: len(head)], ids[len(ids) - len(tail) :]) == (head, tail)
    return ids[len(head) : len(ids) - len(tail)]


def spelt(ids, letters) -> str:
    """The text of the ids, a stroke for each end token."""
    return "".join("/" if token == END else letters.decode([token]) for token in ids)


def is_slice(part: list[int], whole: list[int]) -> bool:
    return any(whole[start : start + len(part)] == part for start in range(len(whole) - len(part) + 1))


def test_the_segments_have_the_tokens_of_the_joined_text_whatever_the_words(tokenizer, seed):
    draw = random.Random(seed)
    for _ in range(300):
        context, asked, answer = ("".join(draw.choices("aB9 '’s.(-\n\t é東🙂\u00a0\u200b:", k=12)) for _ in "cqa")
        given = prompt(context, asked)
        example = Example((*given.segments, Segment(f" {answer.strip()}", scored=True)))
        joined = "".join(segment.text for segment in example.segments)
        expected = tokenizer(joined, verbose=False)["input_ids"]
        assert fitted([example], tokenizer, 999)[0].input_ids.tolist() == [*expected, tokenizer.eos_token_id], joined


def test_a_context_too_long_is_cut_around_its_answer(letters):
    example = question("a b c d X e f g h", "?", "X", 8)  # " a b c d X e f g h"
    encoded = fitted([example, example], letters, len("Context: d X e\nQuestion: ?\nAnswer: X") + 1)
    assert letters.decode(encoded[0].input_ids[:-1]) == "Context: d X e\nQuestion: ?\nAnswer: X"
    assert encoded[0].labels.tolist() == [IGNORED] * (len(encoded[0].labels) - 3) + encoded[0].input_ids[-3:].tolist()
    assert (encoded.shortened, encoded.how) == (2, "what may be cut of them is cut")


@pytest.mark.parametrize(
    ("context", "kept"), [("X b c d", " X b c"), ("a b X d e", " b X d"), ("a b c X", " b c X"), ("a b c d", " a b c")]
)
def test_what_is_kept_has_as_much_before_as_behind_it_and_the_room_is_used_up(letters, context, kept):
    place = context.find("X") + 1
    segment = Segment(f" {context}", scored=False, end=False, cut=True, keep=(place, place + 1) if place else None)
    example = Example((segment, Segment("!", scored=True, end=False)))
    assert letters.decode(fitted([example], letters, len(kept) + 1)[0].input_ids) == f"{kept}!"


def test_an_answers_tokens_are_always_inside_and_the_other_parts_are_whole(tokenizer, seed):
    draw, seen = random.Random(seed), set()
    for _ in range(400):
        context = " ".join(draw.choices(WORDS, k=draw.randint(3, 60))).strip() or "x"
        start, end = sorted(draw.sample(range(len(context) + 1), 2))
        answer = context[start:end].strip()
        if not answer:
            continue
        start += len(context[start:end]) - len(context[start:end].lstrip())
        whole = fitted([question(context, "Why?", answer, start)], tokenizer, 9999)[0]
        limit = draw.randint(10, len(whole.input_ids) + 2)
        tail = f"\nQuestion: Why?\nAnswer: {answer}"
        try:
            encoded = fitted([question(context, "Why?", answer, start)], tokenizer, limit)
        except UserError as error:  # the answer alone is too long
            needed = len(tokenizer(f"Context:{tail}")["input_ids"]) + len(tokenizer(answer)["input_ids"])
            assert "none of the 1 examples" in str(error) and needed + 3 >= limit, (context, answer, limit)
            seen.add("dropped")
            continue
        ids = encoded[0].input_ids.tolist()
        assert len(ids) == min(limit, len(whole.input_ids))
        part = parted(ids[:-1], tokenizer, tail)
        assert answer in tokenizer.decode(part, clean_up_tokenization_spaces=False), (context, answer, limit)
        assert is_slice(part, tokenizer(f" {context}", verbose=False)["input_ids"])
        scored = [label for label in encoded[0].labels.tolist() if label != IGNORED]
        assert scored == [*tokenizer(f" {answer}")["input_ids"], tokenizer.eos_token_id]
        seen.add("cut" if encoded.shortened else "whole")
    assert seen == {"cut", "whole", "dropped"}


def test_a_vocabulary_that_lacks_the_answers_characters_keeps_the_beginning():
    bpe = Tokenizer(models.BPE({"a": 0, "b": 1, "c": 2, "/": 3}, []))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="/")
    said = Segment("b", scored=True)
    for text, keep, kept in (("abca", None, [0, 1]), ("abcaX", (4, 5), [0, 1]), ("XX", (0, 1), [])):
        given = Segment(text, scored=False, end=False, cut=True, keep=keep)
        assert fitted([Example((given, said))], tokenizer, 4)[0].input_ids.tolist() == [*kept, 1, 3]
    assert fitted_prompt(Example((Segment("XX", False, end=False, cut=True),)), tokenizer, 0)[0].tolist() == []


@pytest.mark.parametrize(
    ("given", "said", "cut"),
    [
        (
            "abcd",
            "wxyz",
            {
                10: ("abcd/wxyz/", 5),
                9: ("abc/wxyz/", 5),  # of two that are as long, the first loses more
                8: ("abc/wxyz", 4),  # the model must not learn to stop in mid-sentence
                7: ("ab/wxyz", 4),
                6: ("ab/wxy", 3),
                4: ("a/wx", 2),
                3: ("a/w", 1),
            },
        ),
        ("ab", "stuvwxyz", {12: ("ab/stuvwxyz/", 9), 11: ("ab/stuvwxyz", 8), 6: ("ab/stu", 3), 5: ("a/stu", 3)}),
        ("abcdefgh", "yz", {11: ("abcdefg/yz/", 3), 6: ("ab/yz/", 3), 5: ("a/yz/", 3), 4: ("a/yz", 2)}),
    ],
)
def test_the_longest_is_cut_first_given_text_at_its_end_and_said_text_with_its_end_token(letters, given, said, cut):
    example = Example((Segment(given, scored=False, cut=True), Segment(said, scored=True, cut=True)), "here:1")
    for limit, expected in cut.items():
        (item,) = fitted([example], letters, limit).items
        assert (spelt(item.input_ids, letters), sum(item.labels != IGNORED)) == expected
    with pytest.raises(UserError, match="here:1: 3 tokens are the least of it, 2 fit"):
        fitted([example], letters, 2)


def test_what_must_stay_of_one_segment_is_taken_from_the_others_instead(letters):
    kept = Segment("abcdef", scored=False, cut=True, keep=(1, 5))  # its end token stays, too
    example = Example((kept, Segment("wxyz", scored=True, cut=True)), "here:1")
    cut = [spelt(fitted([example], letters, limit)[0].input_ids, letters) for limit in (11, 10, 9, 8, 6)]
    assert cut == ["abcde/wxyz/", "bcde/wxyz/", "bcde/wxyz", "bcde/wxy", "bcde/w"]
    with pytest.raises(UserError, match="here:1: 6 tokens are the least of it, 5 fit"):
        fitted([example], letters, 5)


def test_cutting_takes_what_is_needed_and_always_from_the_longest_that_may_be_cut(letters, seed):
    draw, seen = random.Random(seed), set()
    for _ in range(600):
        texts = iter(draw.sample([chr(code) for code in range(33, 127) if chr(code) != "/"], 60))  # each letter once
        segments = tuple(segment(draw, "".join(next(texts) for _ in range(draw.randint(1, 15)))) for _ in range(4))
        least = [least_of(each) for each in segments]
        whole = [len(each.text) + each.end for each in segments]
        limit = draw.randint(1, sum(whole) + 1)
        try:
            (item,) = fitted([Example(segments, "here:1")], letters, limit).items
        except UserError as error:
            assert sum(least) > limit and f"here:1: {sum(least)} tokens are the least of it, {limit} fit" in str(error)
            seen.add("dropped")
            continue
        assert len(item.input_ids) == min(limit, sum(whole))
        left = [re.search(f"[{re.escape(each.text)}]+/?", spelt(item.input_ids, letters))[0] for each in segments]
        assert "".join(left) == spelt(item.input_ids, letters)
        for each, part, size in zip(segments, left, whole, strict=True):
            text, start, end = part.removesuffix("/"), *(each.keep or (0, 1))
            assert each.text[start:end] in text and text in each.text
            assert part == each.text + "/" * each.end or (each.cut and len(part) < size)
            assert part.endswith("/") == (each.end and (not each.scored or len(part) == size))
        of_cut = [len(part) for part, size in zip(left, whole, strict=True) if len(part) < size]
        for each, part, low in zip(segments, left, least, strict=True):
            assert not each.cut or len(part) <= max(low, min(of_cut, default=99) + 1), (left, limit)
        seen.add(len(of_cut))
    assert seen >= {"dropped", 0, 1, 2, 3}


def segment(draw: random.Random, text: str) -> Segment:
    scored, cut = draw.random() < 0.5, draw.random() < 0.7
    keep = None if scored or draw.random() < 0.5 else tuple(sorted(draw.sample(range(len(text) + 1), 2)))
    return Segment(text, scored, end=draw.random() < 0.5, cut=cut, keep=keep)


def least_of(each: Segment) -> int:
    """How many tokens must stay: all, one that is said, or what is kept of given text and its end token."""
    if not each.cut:
        return len(each.text) + each.end
    start, end = each.keep or (0, 1)
    return 1 if each.scored else end - start + each.end


def test_an_example_that_cannot_be_cut_so_far_is_dropped_and_the_others_stay(letters):
    fixed = Example((Segment("a long one", scored=False), Segment("b", scored=True)), "here:2")
    short = Example((Segment("a", scored=False), Segment("b", scored=True)), "here:1", label=3)
    encoded = fitted([short, fixed], letters, 5)
    assert encoded.dropped == ["here:2: 13 tokens are the least of it, 5 fit"]
    assert (len(encoded), encoded[0].label, encoded.shortened) == (1, 3, 0)


def test_classes_are_what_a_classification_set_scores(letters):
    examples = [Example((Segment(text, scored=False, end=False, cut=True),), label=1) for text in ("ab", "cdefgh")]
    encoded = fitted(examples, letters, 4)
    assert (encoded.lengths, encoded.scored, [item.label for item in encoded.items]) == ([2, 4], 2, [1, 1])


def test_a_prompt_is_cut_as_its_training_example_is(letters):
    given = (
        Segment("Read: ", False, end=False),
        Segment("abcdefgh", False, cut=True),
        Segment("Say:", False, end=False),
    )
    said = Segment("x", scored=True)
    for limit in (25, 21, 19, 15, 14):
        (ids,) = fitted_prompt(Example(given), letters, limit - 2)
        item = fitted([Example((*given, said))], letters, limit)[0]
        assert ids.tolist() == item.input_ids[:-2].tolist()
        assert len(ids) == min(limit - 2, 19)
    with pytest.raises(UserError, match="the prompt takes 12 tokens at least, 11 fit: shorten it"):
        fitted_prompt(Example(given), letters, 11)


def test_a_context_that_fits_is_read_in_one_window(tokenizer):
    example = prompt("The cat sat on the mat. " * 9, "Who sat?")
    text = "".join(segment.text for segment in example.segments)
    ids = tokenizer(text)["input_ids"]
    for limit in (len(ids), len(ids) + 1, 9999):
        assert [window.tolist() for window in windowed_prompt(example, tokenizer, limit)] == [ids]
    assert len(windowed_prompt(example, tokenizer, len(ids) - 1)) == 2


def test_every_token_is_in_a_window_and_a_short_answer_whole_in_one(letters, seed):
    draw = random.Random(seed)
    for _ in range(200):
        # each letter once, so that a token tells its place
        context = "".join(draw.sample([chr(code) for code in range(33, 127)], draw.randint(20, 94)))
        tail = "\nQuestion: ?\nAnswer:"
        size = draw.randint(32, 98)
        windows = windowed_prompt(prompt(context, "?"), letters, size + len("Context:") + len(tail))
        parts = [letters.decode(parted(window, letters, tail)) for window in windows]
        assert all(len(part) == min(size, len(context) + 1) and part in f" {context}" for part in parts)
        assert set("".join(parts)) == set(f" {context}")
        assert parts[-1].endswith(context[-1]) and parts[0].startswith(" ")
        assert len(set(parts)) == len(parts) <= 2 * (len(context) + 1) / size + 1, "no window twice, none in vain"
        short = (size - 1) // 2  # shorter than half a window
        answers = [context[start : start + short] for start in range(len(context) - short + 1)]
        assert all(any(answer in part for part in parts) for answer in answers)


@pytest.mark.parametrize(
    ("context", "least", "windows"),
    [
        ("The cat sat on the mat. " * 3, 32, 4),  # 72 tokens, begun at 0, 16, 32 and 40
        ("The old cat sat on the red mat.", 32, 1),  # 32 tokens
        ("The cat sat on the mat.", 24, 1),  # what is shorter than the least window needs no more than itself
    ],
)
def test_a_question_that_leaves_its_context_no_room_is_the_users_error(letters, context, least, windows):
    example = prompt(context, "Who?" * 100)
    least += len("Context:\nQuestion: \nAnswer:") + 400
    assert len(windowed_prompt(example, letters, least)) == windows
    with pytest.raises(UserError, match=f"^the prompt takes {least} tokens at least, {least - 1} fit: shorten it$"):
        windowed_prompt(example, letters, least - 1)


def test_windows_are_int32(letters):
    for limit in (70, 400):
        assert {window.dtype for window in windowed_prompt(prompt("a b c " * 9, "?"), letters, limit)} == {
            np.dtype("int32")
        }
