"""Texts of several adapters that come and go in one batch, against PEFT's model of each, one text at a time."""

import numpy as np
import pytest
import tiny
import torch
import transformers
from batching import VOCAB, finish, greedy, models_of, prompts, work_of

from generation.sampling import make_sampler
from gpt2_jittor.ops.decode_step import DecodeStep
from serving.batcher import Batcher
from serving.work import Classification, Embedding, Scoring


def test_texts_of_all_adapters_come_and_go_and_each_is_that_of_its_model_alone(batcher, theirs, rng, monkeypatch):
    steps, call = [], DecodeStep.__call__
    monkeypatch.setattr(DecodeStep, "__call__", lambda *given: (steps.append(given[-1]), call(*given))[1])
    asked = [(list(theirs)[i % 4], prompt, int(rng.integers(1, 20))) for i, prompt in enumerate(prompts(rng, 24))]
    events = [[] for _ in asked]
    for (model, prompt, tokens), found in zip(asked, events, strict=True):
        batcher.submit(work_of(model, prompt, tokens), found.append)
        for _ in range(rng.integers(0, 3)):  # they come at any time
            if batcher._busy():  # else it would wait for another one
                batcher.turn()
    finish(batcher)
    for (model, prompt, tokens), found in zip(asked, events, strict=True):
        assert [token.id for token in found] == greedy(theirs[model], prompt, tokens)
        assert [token.ends for token in found] == [None] * (tokens - 1) + ["length"]
    assert any(spans is not None and len(set(map(tuple, spans[0].tolist()))) > 2 for spans in steps)  # in the kernel


def test_a_chat_that_goes_on_is_not_read_again(batcher, theirs, rng):
    for model in ("two", "base"):
        prompt, found = prompts(rng, 1)[0], []
        batcher.submit(work_of(model, prompt, 6), found.append)
        finish(batcher)
        said = [token.id for token in found]
        before = batcher.figures()
        longer = np.concatenate([prompt, said, rng.integers(0, VOCAB, 7)])
        found.clear()
        batcher.submit(work_of(model, longer, 5), found.append)
        finish(batcher)
        assert [token.id for token in found] == greedy(theirs[model], longer, 5)
        assert batcher.figures().cached_tokens - before.cached_tokens == len(prompt) + 5
        assert [token.kept for token in found] == [len(prompt) + 5, 0, 0, 0, 0]
    found.clear()
    before = batcher.figures()
    batcher.submit(work_of("one", longer, 3), found.append)  # another adapter's keys are not its
    finish(batcher)
    assert [token.id for token in found] == greedy(theirs["one"], longer, 3)
    assert batcher.figures().cached_tokens == before.cached_tokens


def test_the_same_prompt_at_once_and_again(batcher, theirs, rng):
    prompt, events = rng.integers(0, VOCAB, 21), [[] for _ in range(5)]
    for found in events:
        batcher.submit(work_of("two", prompt, 9), found.append)
    finish(batcher)
    assert batcher.figures().cached_tokens == 4 * 20  # the first one's are the others'
    expected = greedy(theirs["two"], prompt, 9)
    assert [[token.id for token in found] for found in events] == [expected] * 5


def test_who_draws_with_a_seed_draws_the_same_in_any_company(batcher, rng):
    prompt, found = rng.integers(0, VOCAB, 9), {}
    for crowd in (0, 6):
        for other in prompts(rng, crowd):
            batcher.submit(work_of("one", other, 30), lambda token: None)
        found[crowd] = []
        sample = make_sampler(temperature=1.3, top_p=0.9, seed=7)
        batcher.submit(work_of("two", prompt, 15, sample=sample), found[crowd].append)
        finish(batcher)
    assert [token.id for token in found[0]] == [token.id for token in found[6]]


def test_penalties_look_at_the_prompt_only_where_they_are_to(batcher, theirs, rng):
    prompt = rng.integers(0, VOCAB, 9)
    free = greedy(theirs["one"], prompt, 1)
    prompt = np.array([*prompt, *free, *prompt])  # what comes next would repeat the prompt's tenth token
    found = []
    for looks in (True, False):
        sample, ids = make_sampler(greedy=True, no_repeat_ngram_size=1), []
        work = work_of("one", prompt, 3, sample=sample, penalise_prompt=looks)
        batcher.submit(work, lambda token, ids=ids: ids.append(token.id))
        finish(batcher)
        found.append(ids)
    assert not {*found[0]} & {*prompt.tolist()}
    assert found[1][0] == greedy(theirs["one"], prompt, 1)[0] and len({*found[1]}) == 3


def test_log_probabilities_are_the_models_own(batcher, theirs, rng):
    prompt, found = rng.integers(0, VOCAB, 11), []
    sample = make_sampler(temperature=0.6, top_k=5, seed=1)
    batcher.submit(work_of("two", prompt, 4, sample=sample, top=3), found.append)
    scored = []
    batcher.submit(Scoring("two", prompt, 2), scored.append)
    finish(batcher)
    ids = np.concatenate([prompt, [token.id for token in found]])
    with torch.no_grad():
        expected = theirs["two"](torch.tensor(ids[None])).logits[0].log_softmax(-1).numpy()
    for place, token in enumerate([*scored[0], *found], 1):
        row = expected[place - 1]
        assert token.id == ids[place] and abs(token.log_prob - row[ids[place]]) < 1e-4
        best = np.argsort(-row)[: len(token.top)]
        assert [each for each, _ in token.top] == best.tolist()
        np.testing.assert_allclose([value for _, value in token.top], row[best], atol=1e-4)
    assert [len(token.top) for token in [*scored[0], *found]] == [2] * 10 + [3] * 4


def test_mean_states(batcher, theirs, rng):
    ids, found = rng.integers(0, VOCAB, 13), []
    batcher.submit(Embedding("two", ids), found.append)
    finish(batcher)
    with torch.no_grad():
        states = theirs["two"].base_model.model.transformer(torch.tensor(ids[None])).last_hidden_state
    np.testing.assert_allclose(found[0], states[0].mean(0).numpy(), atol=1e-4)


def test_an_end_token_ends_a_text(batcher, theirs, rng):
    prompt = rng.integers(0, VOCAB, 8)
    expected = greedy(theirs["base"], prompt, 20)
    found = []
    batcher.submit(work_of("base", prompt, 20, end_ids=frozenset([expected[6], 1000])), found.append)
    finish(batcher)
    first = expected.index(expected[6])
    assert [token.id for token in found] == expected[: first + 1] and found[-1].ends == "end"


@pytest.mark.parametrize("weights", ["int8", "bf16"])
def test_narrow_weights_below_adapters(base, folders, rng, weights):
    """Alone and among others: their own rounding is the same."""
    given = {name: folders[name] for name in ("one", "two")}
    batcher = Batcher(models_of(base, given, weights=weights, cache_tokens=0), piece=16)
    asked = prompts(rng, 6)
    together = [[] for _ in asked]
    for place, (prompt, found) in enumerate(zip(asked, together, strict=True)):
        batcher.submit(work_of(["one", "two"][place % 2], prompt, 10), found.append)
    finish(batcher)
    for place, (prompt, found) in enumerate(zip(asked, together, strict=True)):
        alone = []
        batcher.submit(work_of(["one", "two"][place % 2], prompt, 10), alone.append)
        finish(batcher)
        assert [token.id for token in alone] == [token.id for token in found]


def test_more_rows_than_the_kernel_takes(base, folders, theirs, rng):
    batcher = Batcher(models_of(base, {name: folders[name] for name in ("one", "two")}, rows=40), piece=400)
    asked = [(["one", "two", "base"][i % 3], rng.integers(0, VOCAB, rng.integers(1, 9))) for i in range(36)]
    events = [[] for _ in asked]
    for (model, prompt), found in zip(asked, events, strict=True):
        batcher.submit(work_of(model, prompt, 4), found.append)
    finish(batcher)
    for (model, prompt), found in zip(asked, events, strict=True):
        assert [token.id for token in found] == greedy(theirs[model], prompt, 4)


def test_classes(base, tmp_path, rng):
    labels = {0: "bad", 1: "good", 2: "none"}
    config = {"id2label": labels, "label2id": {name: id for id, name in labels.items()}, "pad_token_id": 256}
    torch.manual_seed(3)
    theirs = transformers.GPT2ForSequenceClassification(transformers.GPT2Config(**(tiny.SIZES | config)))
    tiny.moved(theirs).save_pretrained(tmp_path / "classes")
    tiny.save_tokenizer(tmp_path / "classes")
    batcher = Batcher(models_of(tmp_path / "classes", {}))
    assert batcher.models["classes"].task.labels == ("bad", "good", "none")
    ids, found = rng.integers(0, 256, 12), []
    batcher.submit(Classification("classes", ids), found.append)
    finish(batcher)
    with torch.no_grad():
        expected = theirs(torch.tensor(ids[None])).logits[0].softmax(-1).numpy()
    np.testing.assert_allclose(found[0], expected, atol=1e-5)
