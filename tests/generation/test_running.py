"""Texts that take each other's rows: each is what it would be alone, and what was read or drawn before stays apart."""

import numpy as np
import pytest
import tiny
import torch
from references import pair

from common.errors import UserError
from generation import running
from generation.decoding import stream
from generation.prefixes import Prefixes
from generation.running import continued
from generation.sampling import make_sampler
from generation.text import Text
from gpt2_jittor.checkpoint.config import GPT2Config
from gpt2_jittor.model.lm import GPT2LMHeadModel

VOCAB = tiny.SIZES["vocab_size"]
GREEDY = make_sampler(greedy=True)


@pytest.fixture(scope="module")
def model():
    return GPT2LMHeadModel(GPT2Config(**tiny.SIZES))


@pytest.fixture
def fed(monkeypatch) -> list[tuple[int, int]]:
    """How many rows of how many ids the model was given, whenever it was."""
    shapes, original = [], running.logits_on_device

    def counting(model, ids, *more):
        shapes.append(ids.shape)
        return original(model, ids, *more)

    monkeypatch.setattr(running, "logits_on_device", counting)
    return shapes


def said(texts, *how) -> list[list[int]]:
    model, *more = how
    for _ in continued(model, texts, *more):
        pass
    return [text.result().ids for text in texts]


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_each_text_is_transformers_and_takes_the_row_of_one_that_has_ended(tmp_path, seed, rng, fed, rows):
    theirs, ours = pair(tmp_path, seed, endless=True)
    prompts = [rng.integers(0, VOCAB, rng.integers(1, 40)) for _ in range(12)]
    limits = rng.integers(1, 25, 12).tolist()
    texts = [Text(ids, GREEDY, limit, ()) for ids, limit in zip(prompts, limits, strict=True)]
    found = said(texts, ours, rows)
    for ids, limit, tokens in zip(prompts, limits, found, strict=True):
        settings = {"do_sample": False, "max_new_tokens": limit, "pad_token_id": 0}
        whole = theirs.generate(given := torch.tensor(ids[None]), attention_mask=torch.ones_like(given), **settings)
        assert tokens == whole[0, len(ids) :].tolist()
    steps = [shape[0] for shape in fed if shape[1] == 1]
    assert max(steps) <= rows


def test_rows_are_full_as_long_as_texts_wait(model, rng, fed):
    """And so it takes fewer steps than batches of which each waits for its longest."""
    prompts = [rng.integers(0, VOCAB, 5) for _ in range(12)]
    limits = [3, 20, 7, 9, 2, 15, 4, 4, 8, 30, 6, 5]
    texts = [Text(ids, GREEDY, limit, ()) for ids, limit in zip(prompts, limits, strict=True)]
    said(texts, model, 4)
    steps = [rows for rows, time in fed if time == 1]
    assert sum(steps) == sum(limits) - 12  # no row was computed for nobody
    in_batches = sum(max(limits[start : start + 4]) - 1 for start in (0, 4, 8))
    assert len(steps) < in_batches and set(steps[:-25]) == {4}


def test_a_prompt_that_is_continued_several_times_is_read_once(model, rng, fed):
    prompts = [rng.integers(0, VOCAB, length) for length in (9, 4)]
    texts = [
        Text(ids, make_sampler(temperature=1.5, seed=3, number=number), 6, ())
        for number, ids in enumerate(np.repeat(np.array(prompts, object), [3, 2]))
    ]
    found = said(texts, model, 5)
    assert fed[0] == (2, 9) and fed[1] == (5, 1)
    for number, (text, tokens) in enumerate(zip(texts, found, strict=True)):
        alone = make_sampler(temperature=1.5, seed=3, number=number)
        assert tokens == list(stream(model, text.prompt, alone, 6, None))
    assert len({tuple(tokens) for tokens in found}) == 5


def test_what_was_read_of_one_text_is_not_read_again_and_changes_nothing(model, rng, fed):
    """A long one, its beginning, one that goes on elsewhere, and the first again; between them others of their own."""
    kept, long = Prefixes(200), rng.integers(0, VOCAB, 40)
    other = np.concatenate([long[:30], rng.integers(0, VOCAB, 12)])
    for ids, new in ((long, 40), (long[:25], 1), (other, 12), (long, 1), (other, 1)):
        expected = list(stream(model, ids, GREEDY, 20, None))
        fed.clear()
        assert list(stream(model, ids, GREEDY, 20, None, kept)) == expected
        assert fed[0] == (1, new)
    assert 0 < kept.tokens <= 200


def test_what_is_kept_of_a_text_takes_no_more_than_its_tokens(model):
    """Also where all but its last token was known, and where it ends with its first."""
    kept = Prefixes(200)
    for last in range(10, 60):
        (token,) = stream(model, [5, last], GREEDY, 1, None, kept)
        assert token == next(stream(model, [5, last], GREEDY, 1, None))
    sizes = [array.shape[:2] for _, cache in kept._kept.values() for layer in cache.layers.values() for array in layer]
    assert sum(slots * capacity for slots, capacity in sizes) == 2 * tiny.SIZES["n_layer"] * kept.tokens
    assert kept.tokens == 100


def test_a_text_of_which_no_token_can_be_chosen_is_told(model):
    def nothing(logits, ids):
        raise UserError("nothing")

    texts = [Text([1], GREEDY, 5, ()), Text([2], nothing, 5, ())]
    with pytest.raises(UserError, match="nothing"):
        said(texts, model, 2)
