"""Batches of prompts against one at a time and against transformers; stop strings, in batches and as text comes."""

import numpy as np
import pytest
import tiny
import torch
from references import LOGITS, pair

from common.errors import UserError
from generation import running
from generation.decoding import generate, stream
from generation.running import pad_left
from generation.sampling import make_sampler
from generation.stopping import StoppedText, Stopper
from generation.text import Generated, Text
from gpt2_jittor.checkpoint.config import GPT2Config
from gpt2_jittor.checkpoint.tokenizer import load_tokenizer
from gpt2_jittor.model.cache import KVCache
from gpt2_jittor.model.lm import GPT2LMHeadModel
from gpt2_jittor.model.next_token import last_logits

LOG_PROB = 1e-3  # of a dozen tokens

VOCAB, POSITIONS = tiny.SIZES["vocab_size"], tiny.SIZES["n_positions"]
GREEDY = make_sampler(greedy=True)


def make_prompts(rng, lengths):
    return [rng.integers(0, VOCAB, length).tolist() for length in lengths]


def frequent_end(rows):
    """An id that greedy rows really hold, so that some of them end early with it."""
    return int(np.bincount(np.concatenate(rows)).argmax())


def up_to(ids, end):
    return ids[: ids.index(end)] if end in ids else ids


def transformers_greedy(theirs, prompts, max_new_tokens, end):
    ids, mask = map(torch.tensor, pad_left(prompts))
    settings = {"do_sample": False, "max_new_tokens": max_new_tokens, "eos_token_id": end, "pad_token_id": 0}
    rows = theirs.generate(ids, attention_mask=mask, **settings)[:, ids.shape[1] :].tolist()
    return [up_to(row, end) for row in rows]


def transformers_log_prob(theirs, prompt, continuation):
    """The sum of the continuation's log-probabilities, without a cache."""
    with torch.no_grad():
        log_probs = theirs(torch.tensor([prompt + continuation])).logits[0].double().log_softmax(-1)
    return sum(log_probs[len(prompt) + i - 1, token].item() for i, token in enumerate(continuation))


@pytest.fixture(scope="module")
def model():
    return GPT2LMHeadModel(GPT2Config(**tiny.SIZES))


# --- batches


@pytest.mark.parametrize("lengths", [(5,), (3, 17), (9, 1, 30, 2, 9, 14, 4)], ids=len)
def test_a_greedy_batch_gives_what_each_prompt_gives_alone_and_in_transformers(tmp_path, seed, rng, lengths):
    theirs, ours = pair(tmp_path, seed, endless=True)
    prompts = make_prompts(rng, lengths)
    free = [row.ids for row in generate(ours, prompts, GREEDY, 15, None)]
    for end in (None, frequent_end(free)):
        rows = generate(ours, prompts, GREEDY, 15, end)
        found = [row.ids for row in rows]
        assert found == [list(stream(ours, prompt, GREEDY, 15, end)) for prompt in prompts]
        assert found == transformers_greedy(theirs, prompts, 15, end)
        assert [row.ended for row in rows] == [end in ids for ids in free]


def test_each_row_ends_at_its_own_last_position(tmp_path, seed, rng):
    theirs, ours = pair(tmp_path, seed, endless=True)
    prompts = make_prompts(rng, (POSITIONS - 1, 5, POSITIONS - 4, POSITIONS - 11))
    rows = generate(ours, prompts, GREEDY, 20, None)
    assert [len(row.ids) for row in rows] == [1, 20, 4, 11]
    assert not any(row.ended for row in rows)
    for prompt, row in zip(prompts, rows, strict=True):
        assert [row.ids] == transformers_greedy(theirs, [prompt], len(row.ids), None)


def test_the_log_probability_is_transformers_of_all_tokens_the_end_token_included(tmp_path, seed, rng):
    theirs, ours = pair(tmp_path, seed, endless=True)
    prompts = make_prompts(rng, (4, 1, 12))
    end = generate(ours, prompts, GREEDY, 12, None)[0].ids[5]
    sampler = make_sampler(greedy=True, repetition_penalty=1.5)  # has no say in how probable the model finds a token
    for sample in (GREEDY, sampler):
        for prompt, row in zip(prompts, generate(ours, prompts, sample, 12, end), strict=True):
            continuation = row.ids + [end] * row.ended
            assert row.tokens == len(continuation)
            assert row.log_prob == pytest.approx(transformers_log_prob(theirs, prompt, continuation), abs=LOG_PROB)
            assert row.score == pytest.approx(row.log_prob / len(continuation))


def test_rows_that_have_ended_are_not_computed_any_more(tmp_path, seed, rng, monkeypatch):
    _, ours = pair(tmp_path, seed, endless=True)
    prompts = make_prompts(rng, (3, 8, 20, 5, 5))
    end = frequent_end([row.ids for row in generate(ours, prompts, GREEDY, 15, None)])
    sizes, original = [], running.logits_on_device

    def counting(model, ids, *more):
        sizes.append(len(ids))
        return original(model, ids, *more)

    def sample(logits, ids):
        assert len(ids) == len(logits)
        return GREEDY(logits, ids)

    monkeypatch.setattr(running, "logits_on_device", counting)
    rows = generate(ours, prompts, sample, 15, end)
    assert sizes == [sum(row.tokens > step for row in rows) for step in range(max(row.tokens for row in rows))]


def test_a_sampler_draws_for_a_batch_of_one_as_for_a_stream(model, seed, rng):
    (prompt,) = make_prompts(rng, (6,))
    options = {"temperature": 1.3, "top_p": 0.9, "min_p": 0.01, "no_repeat_ngram_size": 2, "seed": seed}
    expected = list(stream(model, prompt, make_sampler(**options), 20, None))
    assert generate(model, [prompt], make_sampler(**options), 20, None)[0].ids == expected


def test_the_options_see_each_rows_own_ids_and_no_pads(model, rng):
    prompts = make_prompts(rng, (2, 25, 9))
    sample = make_sampler(greedy=True, repetition_penalty=1.8, no_repeat_ngram_size=2)
    expected = [list(stream(model, prompt, sample, 20, None)) for prompt in prompts]
    assert [row.ids for row in generate(model, prompts, sample, 20, None)] == expected


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_in_its_mode_even_by_an_error(training, rng):
    model = GPT2LMHeadModel(GPT2Config(**tiny.SIZES))
    if training:
        model.train()
    generate(model, make_prompts(rng, (2, 3)), GREEDY, 2, None)
    assert model.is_training() == training

    def fail(logits, ids):
        assert not model.is_training()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(model, make_prompts(rng, (2, 3)), fail, 2, None)
    assert model.is_training() == training


def test_nothing_to_generate_gives_empty_rows(model):
    assert generate(model, [], GREEDY, 5, None) == []
    assert generate(model, [[1], [2, 3]], GREEDY, 0, None) == [Generated([], False, 0.0, 0)] * 2
    assert Generated([], False, 0.0, 0).score == 0


def test_a_prompt_at_fault_is_named_by_its_index_where_there_are_several(model):
    full = [1] * POSITIONS
    for prompts, message in (
        ([[]], "the prompt is empty"),
        ([full], f"the prompt takes {POSITIONS} tokens"),
        ([[1], []], "prompts[1] is empty"),
        ([[1], [2], full], f"prompts[2] takes {POSITIONS} tokens"),
    ):
        with pytest.raises(UserError) as caught:
            generate(model, prompts, GREEDY, 5, None)
        assert str(caught.value).startswith(message)


# --- the cache's rows


@pytest.mark.parametrize("rows", [[2, 0], [1, 1, 0, 2, 1], [0, 1, 2], [1]], ids=str)
def test_selected_rows_of_a_cache_go_on_as_if_they_had_been_the_batch(model, rng, rows):
    prompts = make_prompts(rng, (4, 9, 6))
    new = rng.integers(0, VOCAB, (len(rows), 3))
    cache = KVCache()
    last_logits(model, *swap(pad_left(prompts), cache))
    cache.select(np.array(rows))
    assert cache.length == max(len(prompts[row]) for row in rows)  # shared pads are gone
    found = last_logits(model, new, cache)
    for i, row in enumerate(rows):
        alone = last_logits(model, np.array([prompts[row] + new[i].tolist()]), KVCache())
        assert np.abs(found[i] - alone[0]).max() <= LOGITS


def swap(padded, cache):
    ids, mask = padded
    return ids, cache, mask


# --- stop strings


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bytes")
    tiny.save_tokenizer(folder)
    return load_tokenizer(folder)


def letters_only(logits, ids):
    """Draws nothing; takes the likeliest of six letters, each one token, so that strings come up again."""
    return 65 + logits[:, 65:71].argmax(axis=-1)


def generate_text(model, prompts, sample, max_new_tokens, end, tokenizer, stop):
    """`generate`, with stop strings."""
    ends = () if end is None else (end,)
    texts = [Text(ids, sample, max_new_tokens, ends, shown=StoppedText(tokenizer, stop)) for ids in prompts]
    assert {text for text, _ in running.continued(model, texts, len(texts))} == set(texts)
    return [text.result() for text in texts]


def test_a_stop_string_ends_its_row_and_is_cut_from_its_text_across_tokens(model, tokenizer, rng):
    prompts = make_prompts(rng, (2, 7, 4))
    free = generate(model, prompts, letters_only, 12, None)
    texts = [tokenizer.decode(row.ids) for row in free]
    stop = texts[0][4:7]  # three tokens
    rows = generate_text(model, prompts, letters_only, 12, None, tokenizer, [stop, "never there"])
    for row, whole, text in zip(rows, free, texts, strict=True):
        assert row.ended == (stop in text)
        assert row.text == text.split(stop)[0]
        assert row.ids == whole.ids[: text.index(stop) + len(stop) if stop in text else 12]
        assert row.tokens == len(row.ids)
    assert any(row.ended for row in rows)


def test_without_stop_strings_a_row_has_no_text(model, tokenizer):
    assert generate(model, [[1]], letters_only, 3, None)[0].text is None
    (row,) = generate_text(model, [[1]], letters_only, 3, None, tokenizer, [])
    assert row.text == tokenizer.decode(row.ids)


def test_text_held_back_is_in_the_rows_text_when_the_end_token_comes(model, tokenizer):
    ids = iter(tokenizer.encode("tea st") + [256])
    (row,) = generate_text(model, [[1]], lambda *_: np.array([next(ids)]), 20, 256, tokenizer, ["stop"])
    assert (row.text, row.ended, row.tokens) == ("tea st", True, 7)


@pytest.mark.parametrize("stop", ["é", "né!", "\n\n"])
def test_stop_strings_are_found_in_characters_made_of_several_tokens(tokenizer, stop):
    watch = StoppedText(tokenizer, [stop])
    shown, stopped = zip(*map(watch.push, tokenizer.encode(f"thé à l'orangenné!\n\n{stop}more")), strict=True)
    assert "".join(shown) + watch.flush() == f"thé à l'orangenné!\n\n{stop}".split(stop)[0]
    assert list(stopped) == sorted(stopped)  # once stopped it stays so
    assert stopped[-1]


def first_complete(text, strings):
    """The definition, character by character: the text before the string that is complete first, or None."""
    for end in range(len(text) + 1):
        complete = [string for string in strings if text[:end].endswith(string)]
        if complete:
            return text[: end - max(map(len, complete))]
    return None


def test_the_shown_text_is_the_same_however_it_came_in_pieces_and_never_part_of_a_stop_string(rng):
    for _ in range(2000):
        text = "".join(rng.choice(list("ab"), rng.integers(0, 12)))
        strings = ["".join(rng.choice(list("ab"), rng.integers(1, 5))) for _ in range(rng.integers(0, 4))]
        expected = first_complete(text, strings)
        cuts = np.sort(rng.integers(0, len(text) + 1, 4)).tolist()
        pieces = [text[i:j] for i, j in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        stopper, shown, came = Stopper(strings), "", ""
        for piece in pieces:
            more, stopped = stopper.push(piece)
            shown, came = shown + more, came + piece
            assert stopped == (first_complete(came, strings) is not None)
            if not stopped:
                # all that no stop string can begin in any more is shown at once
                beginnings = [s[:size] for s in strings for size in range(1, len(s)) if came.endswith(s[:size])]
                assert len(came) - len(shown) == max(map(len, beginnings), default=0)
        shown += stopper.flush()
        assert shown == (text if expected is None else expected)


def test_an_empty_stop_string_is_refused(tokenizer):
    for make in (Stopper, lambda strings: StoppedText(tokenizer, strings)):
        with pytest.raises(UserError, match="^stop is an empty string"):
            make(["a", ""])
