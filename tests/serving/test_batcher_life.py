"""How texts, adapters and the computing thread itself begin, fail and end, and that others are none the worse."""

import functools
import threading
import weakref

import pytest
import tiny
from batching import VOCAB, finish, greedy, models_of, prompts, work_of

import lora
from common.errors import UserError
from common.files import read_json, write_json
from gpt2_jittor import GPT2LMHeadModel
from gpt2_jittor.model.cache import KVCache
from gpt2_jittor.ops.decode_step import DecodeStep
from serving.adapters import ServedModels
from serving.batcher import Batcher, Stopped
from serving.body import Fields
from serving.choosing import read_choosing
from serving.models import Models
from serving.work import Busy, Embedding, Loading, Unloading


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


def test_a_folder_says_how_long_an_answer_is_and_another_base_is_taken_where_that_is_wanted(base, tmp_path):
    other, folder = tiny.model_folder(tmp_path / "other", seed=77), tmp_path / "own"
    write_json(other / "generation_config.json", {"max_new_tokens": 7})
    model = GPT2LMHeadModel.from_pretrained(base)
    lora.save_adapter(lora.inject(model, lora.LoraConfig()), folder)
    settings = folder / "adapter_config.json"
    write_json(settings, read_json(settings) | {"base_model_name_or_path": str(other)})
    with pytest.raises(UserError, match="trained on another base"):
        ServedModels(adapter=(str(folder),)).sources()
    given = ServedModels(adapter=(str(folder),), ignore_base=True)
    models = Models(given.sources(), given, 8, 200)
    assert [served.tokens for served in models.served.values()] == [7, 7]
    assert [served.tokens for served in models_of(base, {}).served.values()] == [None]


@pytest.mark.parametrize("greedy", [{"do_sample": False}, {"num_beams": 4}, {"temperature": 0.0}, {}])
def test_who_asks_a_greedy_folder_to_draw_draws_as_the_folder_says(tmp_path, greedy):
    """Where that is silent, as the API does."""
    settings = {"top_p": 0.5, "top_k": 20}
    folder = tiny.model_folder(tmp_path / "greedy", seed=7)
    write_json(folder / "generation_config.json", settings | greedy)
    (served,) = models_of(folder, {}).served.values()
    choice = read_choosing(Fields({"temperature": 0.9}), served).choice
    assert (choice.greedy, choice.temperature) == (False, 0.9) and (choice.top_p, choice.top_k) == (0.5, 20)
    assert choice.min_p == 0 and read_choosing(Fields({}), served).choice.greedy == bool(greedy)
    write_json(folder / "generation_config.json", greedy)
    (served,) = models_of(folder, {}).served.values()
    choice = read_choosing(Fields({"temperature": 0.9}), served).choice
    assert (choice.top_p, choice.top_k, choice.min_p) == (1, 0, 0)


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
    """Keeping a read prompt's keys, or a finished text's, is a favour to the next one."""
    prompts_, events = [rng.integers(0, VOCAB, 15), *prompts(rng, 1)], [[], [], []]
    prompts_.append(prompts_[0])  # of which all but the last token is known then: one step reads it
    for prompt, found, tokens in zip(prompts_, events, (3, 9, 5), strict=True):
        if found is events[2]:
            batcher.turn()
            monkeypatch.setattr(KVCache, "row", lambda *_: (_ for _ in ()).throw(MemoryError("no more")))
        batcher.submit(work_of("one", prompt, tokens), found.append)
    finish(batcher)
    assert [[token.id for token in found] for found in events] == [
        greedy(theirs["one"], prompt, tokens) for prompt, tokens in zip(prompts_, (3, 9, 5), strict=True)
    ]
    assert capsys.readouterr().err.count("out of memory") >= 4, "of a prompt and of three texts"


def test_a_text_that_fails_to_join_takes_with_it_those_whose_keys_it_moved(batcher, theirs, rng, monkeypatch, capsys):
    """Memory may be full when half the layers are in their new place."""
    first, events = prompts(rng, 2), [[], [], []]
    for prompt, found in zip(first, events, strict=False):
        batcher.submit(work_of("one", prompt, 9), found.append)
    batcher.turn()
    with monkeypatch.context() as full:
        full.setattr(KVCache, "_spread", fails_at_the_second(KVCache._spread))
        batcher.submit(work_of("one", rng.integers(0, VOCAB, 60), 9), events[2].append)
        finish(batcher)
    assert [type(found[-1]) for found in events] == [MemoryError] * 3
    for prompt in first:
        batcher.submit(work_of("one", prompt, 9), (after := []).append)
        finish(batcher)
        assert [token.id for token in after] == greedy(theirs["one"], prompt, 9)


def fails_at_the_second(act):
    """Like `act` in the first call; memory is full in those after it."""
    calls = iter([act])

    def acting(*arguments):
        found = next(calls, None)
        if found is None:
            raise MemoryError("no more")
        return found(*arguments)

    return acting


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
