"""The decoding kernel against transformers and the model's own layers, over what a cache goes through."""

import contextlib

import numpy as np
import pytest
import tiny
import torch
from references import LOGITS, pair

import lora
from generation.decoding import generate
from generation.running import pad_left
from generation.sampling import make_sampler
from gpt2_jittor.model.cache import KVCache
from gpt2_jittor.model.next_token import last_logits
from gpt2_jittor.ops import fused
from gpt2_jittor.ops.decode_step import DecodeStep
from gpt2_jittor.runtime.backend import jt

VOCAB, POSITIONS = tiny.SIZES["vocab_size"], tiny.SIZES["n_positions"]
GREEDY = make_sampler(greedy=True)
# none is a multiple of the kernel's tiles; 320 columns of c_fc make a wide strip, 72 = 64 + 8 wide heads part of one
SIZES = [
    {},
    {"n_embd": 5, "n_head": 1, "n_inner": 3},
    {"n_embd": 80, "n_head": 1, "n_inner": 320},
    {"n_embd": 144, "n_head": 2, "n_inner": 131, "scale_attn_by_inverse_layer_idx": True},
]


@pytest.fixture(autouse=True)
def kernels():
    """On a CUDA device, which runs these tests too, its kernels."""
    with fused.cuda_kernels() if jt.flags.use_cuda else contextlib.nullcontext():
        yield


@pytest.fixture
def steps(monkeypatch):
    """Counts the kernel's steps: each test says how many there must be, so that none passes without it."""
    counted, call = [], DecodeStep.__call__
    monkeypatch.setattr(DecodeStep, "__call__", lambda *args: (counted.append(len(args[1])), call(*args))[1])
    return counted


def make_rows(rng, lengths):
    return [rng.integers(0, VOCAB, length).tolist() for length in lengths]


def reference(theirs, rows):
    """transformers' logits after each row, computed alone and without a cache."""
    with torch.no_grad():
        return np.stack([theirs(torch.tensor([row])).logits[0, -1].numpy() for row in rows])


def begin(model, rows):
    """A cache that holds the rows."""
    cache = KVCache()
    ids, mask = pad_left(rows)
    last_logits(model, ids, cache, mask)
    return cache


def lengthen(model, cache, rows, rng):
    """One random token more for each row, which is appended to it; returns the logits."""
    new = rng.integers(0, VOCAB, len(rows))
    for row, token in zip(rows, new.tolist(), strict=True):
        row.append(token)
    return last_logits(model, new[:, None], cache)


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 8, 17])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: str(size.get("n_embd", "tiny")))
def test_steps_after_left_padded_prompts_are_transformers(tmp_path, seed, rng, size, batch, steps):
    theirs, ours = pair(tmp_path, seed, **size)
    rows = make_rows(rng, rng.integers(1, 20, batch))
    cache = begin(ours, rows)
    for _ in range(3):
        found = lengthen(ours, cache, rows, rng)
        assert np.abs(found - reference(theirs, rows)).max() <= LOGITS
    assert steps == [batch] * 3


def test_a_cache_grows_up_to_the_last_position_and_no_further(tmp_path, seed, rng, steps):
    theirs, ours = pair(tmp_path, seed)
    rows = make_rows(rng, (3, 1))
    cache = begin(ours, rows)
    while len(rows[0]) < POSITIONS:
        found = lengthen(ours, cache, rows, rng)
        assert np.abs(found - reference(theirs, rows)).max() <= LOGITS
    assert cache.length == POSITIONS and len(steps) == POSITIONS - 3
    with pytest.raises(ValueError, match=f"{POSITIONS + 1} tokens do not fit {POSITIONS} positions"):
        lengthen(ours, cache, rows, rng)
    with pytest.raises(ValueError, match="input_ids hold"):
        last_logits(ours, np.full((2, 1), VOCAB), cache)


def test_rows_that_are_moved_doubled_and_left_out_go_on_as_if_alone(tmp_path, seed, rng, steps):
    theirs, ours = pair(tmp_path, seed)
    rows = make_rows(rng, (2, 25, 9))
    cache = begin(ours, rows)
    for batch in (3, 7, 7, 7, 5, 5, 9, 2, 2, 1, 4):
        chosen = rng.integers(0, len(rows), batch)
        cache.select(chosen)
        rows = [list(rows[row]) for row in chosen]
        assert cache.length == max(map(len, rows))  # pads that all share are gone
        for _ in range(int(rng.integers(1, 5))):
            found = lengthen(ours, cache, rows, rng)
            assert np.abs(found - reference(theirs, rows)).max() <= LOGITS
    assert len(steps) >= 11


def test_the_kernel_and_the_layers_take_turns_on_one_cache(tmp_path, seed, rng, steps):
    theirs, ours = pair(tmp_path, seed)
    rows = make_rows(rng, (2, 11, 5))
    cache = begin(ours, rows)
    for turn in range(4):
        lengthen(ours, cache, rows, rng)
        chosen = rng.permutation(3)
        cache.select(chosen)
        rows = [list(rows[row]) for row in chosen]
        if turn % 2:
            with fused.composed_only():
                found = lengthen(ours, cache, rows, rng)
        else:  # several tokens at once are the layers' work, too
            new = rng.integers(0, VOCAB, (3, 2))
            rows = [row + more for row, more in zip(rows, new.tolist(), strict=True)]
            found = last_logits(ours, new, cache)
        assert np.abs(found - reference(theirs, rows)).max() <= LOGITS
    assert len(steps) == 4


def test_a_head_of_its_own_is_read_instead_of_the_embedding(tmp_path, seed, rng, steps):
    theirs, ours = pair(tmp_path, seed, tie_word_embeddings=False)
    rows = make_rows(rng, (6,))
    cache = begin(ours, rows)
    assert np.abs(lengthen(ours, cache, rows, rng) - reference(theirs, rows)).max() <= LOGITS
    assert len(steps) == 1


def test_greedy_texts_are_the_layers_and_the_prompt_alone_is_theirs(tmp_path, seed, rng, steps):
    _, ours = pair(tmp_path, seed)
    prompts = make_rows(rng, (7, 1, 30))
    found = [row.ids for row in generate(ours, prompts, GREEDY, 20, None)]
    assert len(steps) == 19
    with fused.composed_only():
        assert [row.ids for row in generate(ours, prompts, GREEDY, 20, None)] == found
    assert len(steps) == 19


def test_other_activations_are_the_layers_work(tmp_path, seed, rng, steps):
    theirs, ours = pair(tmp_path, seed, activation_function="relu")
    rows = make_rows(rng, (6, 3))
    cache = begin(ours, rows)
    assert np.abs(lengthen(ours, cache, rows, rng) - reference(theirs, rows)).max() <= LOGITS
    assert not steps


@pytest.mark.parametrize("tokens", [None, [3, 9]], ids=["projections", "and tokens"])
def test_an_adapter_is_the_kernels_work_once_it_is_merged(tmp_path, seed, rng, tokens, steps):
    _, ours = pair(tmp_path, seed)
    targets = ["c_attn", "c_proj", "c_fc"]
    config = lora.LoraConfig(r=3, target_modules=targets, init_lora_weights=False, trainable_token_indices=tokens)
    lora.inject(ours, config)
    ours.eval()
    prompts = make_rows(rng, (7, 2))
    unmerged = begin(ours, prompts)
    expected = last_logits(ours, np.array([[3], [9]]), unmerged)
    assert not steps
    lora.merge(ours)
    found = last_logits(ours, np.array([[3], [9]]), begin(ours, prompts))
    assert steps == [2]
    assert np.abs(found - expected).max() <= LOGITS * max(1, np.abs(expected).max())


def test_a_model_in_training_is_left_to_its_layers(tmp_path, seed, rng, steps):
    _, ours = pair(tmp_path, seed)
    cache = begin(ours, make_rows(rng, (4,)))
    ours.train()
    last_logits(ours, np.array([[1]]), cache)
    assert not steps
