"""Texts of several adapters that come and go in one batch, against PEFT's model of each, one text at a time."""

import functools
import threading
import weakref

import numpy as np
import peft
import pytest
import tiny
import torch
import transformers
from adapters import make_adapter

from common.errors import UserError
from generation.sampling import make_sampler
from gpt2_jittor.model.cache import KVCache
from gpt2_jittor.ops.decode_step import DecodeStep
from serving.adapters import ServedModels
from serving.batcher import Batcher, Stopped
from serving.models import Models
from serving.work import (
    Busy,
    Classification,
    Continuation,
    Embedding,
    Loading,
    Scoring,
    Unloading,
)

VOCAB, POSITIONS = tiny.SIZES["vocab_size"], tiny.SIZES["n_positions"]
ADAPTERS = {
    "one": {"r": 4, "lora_alpha": 8, "target_modules": ["c_attn"]},
    "two": {"r": 9, "lora_alpha": 3, "target_modules": ["c_attn", "c_proj", "c_fc"], "use_rslora": True},
    "dora": {"r": 2, "lora_alpha": 4, "target_modules": ["c_attn", "c_fc"], "use_dora": True},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.model_folder(tmp_path_factory.mktemp("served") / "base", seed=5)


@pytest.fixture(scope="module")
def folders(base, tmp_path_factory):
    root = tmp_path_factory.mktemp("adapters")
    return {name: make_adapter(base, root / name, seed, given) for seed, (name, given) in enumerate(ADAPTERS.items())}


@pytest.fixture(scope="module")
def theirs(base, folders):
    """PEFT's model of each name."""
    models = {"base": transformers.GPT2LMHeadModel.from_pretrained(base).eval()}
    for name, folder in folders.items():
        model = transformers.GPT2LMHeadModel.from_pretrained(base)
        models[name] = peft.PeftModel.from_pretrained(model, folder).eval()
    return models


def models_of(base, folders, int8: bool = False, rows: int = 8, cache_tokens: int = 200) -> Models:
    given = ServedModels(model=str(base), int8=int8, adapter=tuple(f"{name}={at}" for name, at in folders.items()))
    return Models(given.sources(), given, rows, cache_tokens)


@pytest.fixture
def batcher(base, folders):
    return Batcher(models_of(base, folders), piece=16)


def finish(batcher: Batcher, turns: int = 1000) -> None:
    while batcher._busy() and (turns := turns - 1):
        batcher.turn()
    assert turns


def work_of(model: str, prompt, tokens: int = 12, **more) -> Continuation:
    given = {"sample": make_sampler(greedy=True), "end_ids": frozenset(), "top": None} | more
    return Continuation(model, np.asarray(prompt), tokens, **given)


def greedy(model, prompt, tokens: int) -> list[int]:
    """What transformers' model says most likely, without a cache."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(tokens):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def prompts(rng, count: int) -> list[np.ndarray]:
    return [rng.integers(0, VOCAB, rng.integers(1, 50)) for _ in range(count)]


def test_texts_of_all_adapters_come_and_go_and_each_is_that_of_its_model_alone(batcher, theirs, rng, monkeypatch):
    steps, call = [], DecodeStep.__call__
    monkeypatch.setattr(DecodeStep, "__call__", lambda *given: (steps.append(given[-1]), call(*given))[1])
    asked = [(list(theirs)[i % 4], prompt, int(rng.integers(1, 20))) for i, prompt in enumerate(prompts(rng, 24))]
    events = [[] for _ in asked]
    for (model, prompt, tokens), found in zip(asked, events, strict=True):
        batcher.submit(work_of(model, prompt, tokens), found.append)
        for _ in range(rng.integers(0, 3)):  # they come at any time
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


def test_who_goes_leaves_the_others_as_they_are(batcher, theirs, rng):
    asked = prompts(rng, 7)
    events = [[] for _ in asked]
    tickets = [
        batcher.submit(work_of("two", prompt, 18), found.append) for prompt, found in zip(asked, events, strict=True)
    ]
    for _ in range(9):
        batcher.turn()
    for ticket in tickets[::2]:
        ticket.cancel()
    had = [len(found) for found in events]
    finish(batcher)
    for place, (prompt, found) in enumerate(zip(asked, events, strict=True)):
        expected = greedy(theirs["two"], prompt, 18)
        assert [token.id for token in found] == (expected[: had[place]] if place % 2 == 0 else expected)
    assert batcher.figures().running == 0


def test_adapters_come_and_go_while_others_answer(base, folders, theirs, rng):
    batcher = Batcher(models_of(base, {"one": folders["one"]}), piece=16)
    prompt, found, loaded, refused = rng.integers(0, VOCAB, 8), [], [], []
    batcher.submit(work_of("one", prompt, 25), found.append)
    batcher.turn()
    batcher.submit(Loading("two", folders["two"]), loaded.append)
    batcher.submit(Loading("two", folders["two"]), refused.append)
    for _ in range(3):
        batcher.turn()
    assert loaded[0].name == "two" and list(batcher.models) == ["base", "one", "two"]
    assert isinstance(refused[0], UserError)
    other = []
    batcher.submit(work_of("two", prompt, 5), other.append)
    gone = []
    batcher.submit(Unloading("one"), gone.append)  # what it has begun is finished
    late = []
    for _ in range(2):
        batcher.turn()
    batcher.submit(work_of("one", prompt, 5), late.append)
    finish(batcher)
    assert gone == [None] and list(batcher.models) == ["base", "two"] and isinstance(late[0], UserError)
    assert [token.id for token in found] == greedy(theirs["one"], prompt, 25)
    assert [token.id for token in other] == greedy(theirs["two"], prompt, 5)
    again = []
    batcher.submit(Loading("one", folders["two"]), again.append)  # another one under the name that is free
    batcher.turn()
    found.clear()
    batcher.submit(work_of("one", prompt, 5), found.append)
    finish(batcher)
    assert [token.id for token in found] == greedy(theirs["two"], prompt, 5)


def test_int8_weights_below_adapters(base, folders, rng):
    """Alone and among others: int8's own rounding is the same."""
    given = {name: folders[name] for name in ("one", "two")}
    batcher = Batcher(models_of(base, given, int8=True, cache_tokens=0), piece=16)
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


def test_an_adapter_goes_while_a_prompt_of_another_is_read(base, folders, theirs, rng):
    """Pieces of one token: the kernel that reads them must see which ranks are whose now."""
    batcher = Batcher(models_of(base, {name: folders[name] for name in ("one", "two")}), piece=1)
    prompt, found = rng.integers(0, VOCAB, 12), []
    batcher.submit(work_of("two", prompt, 8), found.append)
    for _ in range(5):
        batcher.turn()
    batcher.submit(Unloading("one"), lambda done: None)
    finish(batcher)
    assert [token.id for token in found] == greedy(theirs["two"], prompt, 8)


def test_a_full_model_stops_nobody_but_its_own(base, folders, theirs, rng):
    """DoRA's adapter is a model of its own."""
    batcher = Batcher(models_of(base, {"dora": folders["dora"]}, rows=1), piece=16)
    first, second, other, state = [], [], [], []
    batcher.submit(work_of("base", rng.integers(0, VOCAB, 5), 40), first.append)
    batcher.submit(work_of("base", rng.integers(0, VOCAB, 5), 3), second.append)
    prompt = rng.integers(0, VOCAB, 5)
    batcher.submit(work_of("dora", prompt, 3), other.append)
    batcher.submit(Embedding("base", prompt), state.append)
    for _ in range(6):
        batcher.turn()
    assert [token.id for token in other] == greedy(theirs["dora"], prompt, 3)
    assert len(state) == 1 and len(first) < 40 and not second
    finish(batcher)
    assert len(second) == 3


def test_more_rows_than_the_kernel_takes(base, folders, theirs, rng):
    batcher = Batcher(models_of(base, {name: folders[name] for name in ("one", "two")}, rows=40), piece=400)
    asked = [(["one", "two", "base"][i % 3], rng.integers(0, VOCAB, rng.integers(1, 9))) for i in range(36)]
    events = [[] for _ in asked]
    for (model, prompt), found in zip(asked, events, strict=True):
        batcher.submit(work_of(model, prompt, 4), found.append)
    finish(batcher)
    for (model, prompt), found in zip(asked, events, strict=True):
        assert [token.id for token in found] == greedy(theirs[model], prompt, 4)


def test_what_is_cancelled_before_it_speaks_says_nothing(batcher, theirs, rng):
    events = [[] for _ in range(12)]
    asked = [rng.integers(0, VOCAB, 40) for _ in events]  # 8 are read at once, the rest waits
    tickets = [batcher.submit(work_of("two", p, 5), found.append) for p, found in zip(asked, events, strict=True)]
    batcher.turn()
    for ticket in tickets[1:]:
        ticket.cancel()
    finish(batcher)
    assert [token.id for token in events[0]] == greedy(theirs["two"], asked[0], 5)
    assert not any(events[1:]) and batcher.figures().waiting == 0


def test_a_copy_that_fails_harms_no_text(batcher, theirs, rng, monkeypatch, capsys):
    """Keeping a finished text's keys is a favour to the next one."""
    prompts_, events = prompts(rng, 2), [[], []]
    for prompt, found, tokens in zip(prompts_, events, (3, 9), strict=True):
        batcher.submit(work_of("one", prompt, tokens), found.append)
    batcher.turn()
    monkeypatch.setattr(KVCache, "row", lambda *_: (_ for _ in ()).throw(MemoryError("no more")))
    finish(batcher)
    assert [[token.id for token in found] for found in events] == [
        greedy(theirs["one"], prompt, tokens) for prompt, tokens in zip(prompts_, (3, 9), strict=True)
    ]
    assert "out of memory" in capsys.readouterr().err


def test_a_step_that_fails_ends_its_texts_and_no_others(batcher, theirs, rng, monkeypatch, capsys):
    events = [[], []]
    for found in events:
        batcher.submit(work_of("one", rng.integers(0, VOCAB, 5), 9), found.append)
    batcher.turn()
    with monkeypatch.context() as broken:
        broken.setattr(DecodeStep, "__call__", lambda *_: (_ for _ in ()).throw(ValueError("a bug")))
        batcher.turn()
    assert [type(found[-1]) for found in events] == [ValueError, ValueError]
    assert capsys.readouterr().err.count("a bug") == 1
    prompt, after = rng.integers(0, VOCAB, 7), []
    batcher.submit(work_of("two", prompt, 6), after.append)
    finish(batcher)
    assert [token.id for token in after] == greedy(theirs["two"], prompt, 6)


def test_a_model_of_its_own_is_freed_when_it_is_unloaded(base, folders, rng):
    batcher = Batcher(models_of(base, {"dora": folders["dora"]}), piece=16)
    model = weakref.ref(batcher._models.places["dora"].loaded.model)
    found = []
    batcher.submit(work_of("dora", rng.integers(0, VOCAB, 5), 6), found.append)
    batcher.submit(Unloading("dora"), lambda done: None)
    finish(batcher)
    batcher.submit(work_of("base", [1, 2], 1), lambda token: None)
    finish(batcher)
    assert len(found) == 6 and model() is None


def test_it_runs_in_a_thread_until_it_is_stopped(batcher, theirs, rng):
    asked, done = prompts(rng, 5), [threading.Event() for _ in range(5)]
    events = [[] for _ in asked]

    def told(place: int, token) -> None:
        events[place].append(token.id)
        if token.ends:
            done[place].set()

    batcher.warm_up()
    assert batcher.figures().generated_tokens == 0
    clients = threading.Thread(
        target=lambda: (
            [
                batcher.submit(work_of("two", prompt, 7), functools.partial(told, place))
                for place, prompt in enumerate(asked)
            ]
            and all(event.wait(60) for event in done)
            and batcher.stop(60)
        )
    )
    clients.start()
    batcher.run()
    clients.join()
    assert events == [greedy(theirs["two"], prompt, 7) for prompt in asked]


def test_more_than_there_is_room_for_wait_and_too_many_are_refused(base, rng):
    batcher = Batcher(models_of(base, {}, rows=2), piece=16, most_waiting=1)
    events = [[] for _ in range(3)]
    for found in events:
        batcher.submit(work_of("base", rng.integers(0, VOCAB, 5), 6), found.append)
    with pytest.raises(Busy):
        batcher.submit(work_of("base", [1, 2], 6), print)
    batcher.turn()
    assert batcher.figures().running == 2 and batcher.figures().waiting == 1
    finish(batcher)
    assert [len(found) for found in events] == [6, 6, 6]


def test_errors_are_told_to_who_asked_alone(batcher, rng, capsys):
    def broken(logits, ids):
        raise ValueError("a bug")

    events = [[] for _ in range(4)]
    batcher.submit(work_of("one", rng.integers(0, VOCAB, 5), 6), events[0].append)
    batcher.submit(work_of("one", rng.integers(0, VOCAB, 5), 6, sample=broken), events[1].append)
    batcher.submit(work_of("one", [], 6), events[2].append)
    batcher.submit(work_of("nobody", [1], 6), events[3].append)
    finish(batcher)
    assert len(events[0]) == 6
    assert [type(found[0]) for found in events[1:]] == [ValueError, UserError, UserError]
    assert capsys.readouterr().err.count("this should not happen: ValueError: a bug") == 1


def test_what_is_not_finished_in_time_is_told(batcher, rng):
    found, waiting = [], []
    batcher.submit(work_of("one", rng.integers(0, VOCAB, 5), 90), found.append)
    batcher.turn()
    batcher.submit(work_of("one", rng.integers(0, VOCAB, 5), 90), waiting.append)
    batcher.stop(0)
    with pytest.raises(Busy):
        batcher.submit(work_of("one", [1], 6), print)
    batcher.run()
    assert isinstance(found[-1], Stopped) and isinstance(waiting[-1], Stopped)


def test_what_runs_is_finished_within_the_grace(batcher, rng):
    found = []
    batcher.submit(work_of("one", rng.integers(0, VOCAB, 5), 40), found.append)
    batcher.stop(60)
    batcher.run()
    assert len(found) == 40


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
