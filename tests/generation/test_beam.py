"""Beam search against transformers': the same sequences, order and scores, for batches padded on the left.

transformers' n-grams see the pads, ours do not. The pad is the end token there, which no prompt holds, and so no
n-gram of two or more that a text could repeat has a pad in it. Its repetition penalty sees none either.
"""

import itertools

import numpy as np
import pytest
import tiny
import torch
from references import pair

from common.errors import UserError
from generation.beam import beam_search
from generation.running import pad_left
from gpt2_jittor.checkpoint.config import GPT2Config
from gpt2_jittor.model.lm import GPT2LMHeadModel
from gpt2_jittor.model.next_token import last_logits

SCORE = 1e-4  # relative, and absolute near 0: sums of a dozen float32 log-probabilities, computed in other orders
VOCAB, POSITIONS = tiny.SIZES["vocab_size"], tiny.SIZES["n_positions"]
NEW = 10  # tokens
PENALTIES = [0.0, 1.0, 2.0, -1.0]
STOPPING = [True, False, "never"]


def prompts_and_end(model, rng, lengths=(3, 11, 1)):
    """Prompts, and an end token that they do not hold but that their continuations do, as often as any other id."""
    prompts = [rng.integers(0, VOCAB, length).tolist() for length in lengths]
    beams = itertools.chain(*beam_search(model, prompts, 2, NEW, None, samples=2))
    counts = np.bincount(np.concatenate([beam.ids for beam in beams]), minlength=VOCAB)
    counts[np.concatenate(prompts)] = 0
    return prompts, int(counts.argmax())


def transformers_beams(theirs, prompts, end, samples, max_new_tokens=NEW, **options):
    """For each prompt, `samples` pairs of ids and score. `end`: an end token, a list of some, or None."""
    ids, mask = map(torch.tensor, pad_left(prompts))
    ends = end if isinstance(end, list) else [end]
    pad = ends[0] or 0
    out = theirs.generate(
        ids.masked_fill(mask == 0, pad),
        attention_mask=mask,
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=end,
        pad_token_id=pad,
        num_return_sequences=samples,
        return_dict_in_generate=True,
        output_scores=True,
        **options,
    )
    rows = out.sequences[:, ids.shape[1] :].tolist()
    rows = [row[: next((place for place, token in enumerate(row) if token in ends), len(row))] for row in rows]
    found = list(zip(rows, out.sequences_scores.tolist(), strict=True))
    return [found[i : i + samples] for i in range(0, len(found), samples)]


def assert_same(found, expected):
    assert [[beam.ids for beam in beams] for beams in found] == [[ids for ids, _ in beams] for beams in expected]
    for beams, references in zip(found, expected, strict=True):
        for beam, (_, score) in zip(beams, references, strict=True):
            assert beam.beam_score == pytest.approx(score, rel=SCORE, abs=SCORE)


@pytest.fixture(scope="module")
def model():
    return GPT2LMHeadModel(GPT2Config(**tiny.SIZES))


@pytest.mark.parametrize("num_beams", [2, 3, 4, 5])
def test_beams_are_transformers_with_every_length_penalty_and_way_to_stop(tmp_path, seed, rng, num_beams):
    theirs, ours = pair(tmp_path, seed, endless=True)
    prompts, end = prompts_and_end(ours, rng)
    ended = set()
    for i, length_penalty in enumerate(PENALTIES):
        early_stopping = STOPPING[(num_beams + i) % 3]  # over the four numbers, each of them with each penalty
        options = {"num_beams": num_beams, "length_penalty": length_penalty, "early_stopping": early_stopping}
        found = beam_search(ours, prompts, max_new_tokens=NEW, end_id=end, samples=num_beams, **options)
        assert_same(found, transformers_beams(theirs, prompts, end, num_beams, **options))
        ended |= {beam.ended for beams in found for beam in beams}
    assert True in ended


@pytest.mark.parametrize("early_stopping", STOPPING)
@pytest.mark.parametrize("count", [2, 5])
def test_beams_end_at_each_of_several_end_tokens(tmp_path, seed, rng, count, early_stopping):
    theirs, ours = pair(tmp_path, seed, endless=True)
    prompts, end = prompts_and_end(ours, rng)
    others = [id for id in rng.permutation(VOCAB).tolist() if id != end and id not in sum(prompts, [])]
    ends = [end, *others[: count - 1]]
    found = beam_search(ours, prompts, 3, NEW, ends, samples=3, early_stopping=early_stopping)
    assert_same(found, transformers_beams(theirs, prompts, ends, 3, num_beams=3, early_stopping=early_stopping))
    assert {beam.end_id for beams in found for beam in beams if beam.ended} <= {*ends}
    assert all(beam.all_ids == [*beam.ids, beam.end_id] for beams in found for beam in beams if beam.ended)


def test_more_end_tokens_leave_fewer_beams(model):
    with pytest.raises(UserError, match="^num_beams must be at most 1/4 of the vocabulary's 301 tokens, not 76$"):
        beam_search(model, [[1]], 76, 2, [1, 2, 3])


@pytest.mark.parametrize("no_repeat_ngram_size", [0, 2, 3])
@pytest.mark.parametrize("repetition_penalty", [1.0, 1.4, 0.8])
def test_the_penalties_act_on_beams_as_in_transformers(tmp_path, seed, rng, no_repeat_ngram_size, repetition_penalty):
    theirs, ours = pair(tmp_path, seed, endless=True)
    prompts, end = prompts_and_end(ours, rng, (2, 9, 30, 5))
    options = {"no_repeat_ngram_size": no_repeat_ngram_size, "repetition_penalty": repetition_penalty, "num_beams": 3}
    found = beam_search(ours, prompts, max_new_tokens=NEW, end_id=end, samples=3, **options)
    assert_same(found, transformers_beams(theirs, prompts, end, 3, **options))


def test_without_an_end_token_every_beam_has_all_tokens(tmp_path, seed, rng):
    theirs, ours = pair(tmp_path, seed, endless=True)
    prompts, _ = prompts_and_end(ours, rng)
    found = beam_search(ours, prompts, 3, NEW, None, samples=2)
    assert_same(found, transformers_beams(theirs, prompts, None, 2, num_beams=3))
    assert {(len(beam.ids), beam.ended) for beams in found for beam in beams} == {(NEW, False)}


def test_fewer_samples_are_the_best_of_more(tmp_path, seed, rng):
    _, ours = pair(tmp_path, seed, endless=True)
    prompts, end = prompts_and_end(ours, rng)
    whole = beam_search(ours, prompts, 4, NEW, end, samples=4)
    assert [len(beams) for beams in whole] == [4, 4, 4]
    for samples in (1, 2):
        found = beam_search(ours, prompts, 4, NEW, end, samples=samples)
        assert found == [beams[:samples] for beams in whole]


def test_each_prompt_is_searched_up_to_its_own_last_position(tmp_path, seed, rng):
    theirs, ours = pair(tmp_path, seed, endless=True)
    prompts, end = prompts_and_end(ours, rng, (POSITIONS - 1, 4, POSITIONS - 5))
    found = beam_search(ours, prompts, 3, NEW, end, samples=3, early_stopping="never")
    for prompt, beams in zip(prompts, found, strict=True):
        settings = {"max_new_tokens": min(NEW, POSITIONS - len(prompt)), "early_stopping": "never", "num_beams": 3}
        assert_same([beams], transformers_beams(theirs, [prompt], end, 3, **settings))


@pytest.mark.parametrize("early_stopping", STOPPING)
def test_a_search_ends_with_the_same_token_as_transformers(tmp_path, seed, rng, early_stopping, monkeypatch):
    theirs, ours = pair(tmp_path, seed, endless=True)
    (prompt,), end = prompts_and_end(ours, rng, (6,))
    options = {"num_beams": 2, "early_stopping": early_stopping, "max_new_tokens": 30}
    steps = {"theirs": 0, "ours": 0}
    monkeypatch.setattr(theirs, "forward", counted(theirs.forward, steps, "theirs"))
    monkeypatch.setattr("generation.beam.last_logits", counted(last_logits, steps, "ours"))
    assert_same(
        beam_search(ours, [prompt], end_id=end, **options), transformers_beams(theirs, [prompt], end, 1, **options)
    )
    assert steps["ours"] == steps["theirs"]


def counted(function, counts, name):
    def call(*args, **kwargs):
        counts[name] += 1
        return function(*args, **kwargs)

    # generate() reads the names of forward's parameters
    call.__wrapped__ = function
    return call


def test_prompts_that_are_done_are_not_computed_any_more(tmp_path, seed, rng, monkeypatch):
    _, ours = pair(tmp_path, seed, endless=True)
    prompts, end = prompts_and_end(ours, rng, (3, 3, 3, 3))
    batches, hidden = [], ours.hidden

    def recorded(ids, *args):
        batches.append(len(ids))
        return hidden(ids, *args)

    monkeypatch.setattr(ours, "hidden", recorded)
    steps = []
    for prompt in prompts:
        beam_search(ours, [prompt], 2, NEW, end, early_stopping=True)
        steps.append(len(batches))
        batches.clear()
    beam_search(ours, prompts, 2, NEW, end, early_stopping=True)
    assert batches == [4] + [2 * sum(step < own for own in steps) for step in range(1, max(steps))]


def test_the_log_probability_is_the_models_own_and_the_score_the_mean(tmp_path, seed, rng):
    theirs, ours = pair(tmp_path, seed, endless=True)
    prompts, end = prompts_and_end(ours, rng)
    for penalty in (1.0, 1.5):
        found = beam_search(ours, prompts, 3, NEW, end, repetition_penalty=penalty, samples=3)
        for prompt, beams in zip(prompts, found, strict=True):
            for beam in beams:
                tokens = beam.ids + [end] * beam.ended
                with torch.no_grad():
                    log_probs = theirs(torch.tensor([prompt + tokens])).logits[0].log_softmax(-1)
                expected = sum(log_probs[len(prompt) + i - 1, token].item() for i, token in enumerate(tokens))
                assert beam.tokens == len(tokens)
                assert beam.log_prob == pytest.approx(expected, rel=SCORE, abs=SCORE)
                if penalty == 1:
                    assert beam.beam_score == pytest.approx(beam.score, rel=1e-5)  # one sum is in float32


def test_the_model_is_left_in_its_mode(rng):
    model = GPT2LMHeadModel(GPT2Config(**tiny.SIZES))
    model.train()
    beam_search(model, [[1, 2]], 2, 3, None)
    assert model.is_training()


def test_there_are_fewer_samples_where_the_penalties_leave_no_more():
    model = GPT2LMHeadModel(GPT2Config(**tiny.SIZES | {"vocab_size": 4}))
    (beams,) = beam_search(model, [[0, 1]], 2, 2, None, no_repeat_ngram_size=1, samples=2)
    assert sorted(beam.ids for beam in beams) == [[2, 3], [3, 2]]
    (beams,) = beam_search(model, [[0, 1, 2]], 2, 1, None, no_repeat_ngram_size=1, samples=2)
    assert [beam.ids for beam in beams] == [[3]]
    with pytest.raises(UserError, match="no_repeat_ngram_size"):
        beam_search(model, [[0, 1]], 2, 3, None, no_repeat_ngram_size=1)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("num_beams", 1, "num_beams must be a whole number, 2 or more"),
        ("num_beams", 2.0, "num_beams must be a whole number, 2 or more"),
        ("num_beams", 151, "num_beams must be at most half"),
        ("max_new_tokens", 0, "max_new_tokens must be at least 1"),
        ("samples", 4, "samples must be between 1 and the 3 beams, not 4"),
        ("samples", 0, "samples must be between 1 and the 3 beams, not 0"),
        ("length_penalty", float("nan"), "length_penalty must be between"),
        ("length_penalty", 170.0, "length_penalty must be between ±10"),
        ("early_stopping", "always", "early_stopping must be"),
        ("repetition_penalty", 0.0, "repetition_penalty must be"),
        ("no_repeat_ngram_size", -1, "no_repeat_ngram_size must be"),
        ("prompts", [[]], "the prompt is empty"),
        ("prompts", [[1], [1] * POSITIONS], f"prompts[1] takes {POSITIONS} tokens"),
    ],
)
def test_an_option_out_of_range_is_refused_by_its_name(model, option, value, message):
    options = {"prompts": [[1]], "num_beams": 3, "max_new_tokens": 2, "end_id": None} | {option: value}
    with pytest.raises(UserError) as caught:
        beam_search(model, **options)
    assert str(caught.value).startswith(message)


def test_the_penalties_may_look_at_the_continuation_alone():
    model, prompt = GPT2LMHeadModel(GPT2Config(**tiny.SIZES | {"vocab_size": 5})), [0, 1, 2, 3, 4]
    with pytest.raises(UserError, match="no_repeat_ngram_size"):  # every id was there
        beam_search(model, [prompt], 2, 4, None, no_repeat_ngram_size=1)
    (beams,) = beam_search(model, [prompt], 2, 4, None, no_repeat_ngram_size=1, samples=2, penalise_prompt=False)
    assert len(beams) == 2 and all(len(set(beam.ids)) == len(beam.ids) == 4 for beam in beams)
