"""Answers to many prompts beside those of one prompt alone, and their scores beside transformers' probabilities."""

from functools import partial

import numpy as np
import pytest
import tiny
import torch
import transformers
from console import let_say, record_drawn

from common.errors import UserError
from datasets import tasks
from datasets.example import Example, Segment
from generation import beam
from generation.decoding import stream
from generation.engine import Engine
from generation.options import GenerationOptions
from generation.running import continued
from generation.sampling import make_sampler
from generation.text import Generated, Text
from gpt2_jittor import GPT2LMHeadModel
from gpt2_jittor.checkpoint.tokenizer import add_tokens, load_tokenizer

CHAT, E2E, SQUAD, TEXT = (tasks.find(name) for name in ("dailydialog", "e2e", "squad", "text"))
SCORE = 1e-4  # absolute, the contract's for logits: a score is a mean of their differences
Greedy = partial(GenerationOptions, greedy=True)  # unless a test says otherwise
DRAWN = {"greedy": False, "max_new_tokens": 7}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model whose every token the byte tokenizer can decode."""
    return tiny.model_folder(tmp_path_factory.mktemp("model"), seed=4, vocab_size=257)


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder)


def random_prompts(rng, count: int = 7) -> list[Example]:
    """Dialogues of different lengths, one of which stands there twice."""
    found = [CHAT.prompt([" ".join(rng.choice(tiny.WORDS, words))]) for words in rng.permutation(8)[:count] + 1]
    return [*found, found[0]]


def torch_score(folder, prompt, generated, end: int = 256) -> float:
    """The mean log-probability of the tokens that were generated, the end token included."""
    ids = [*prompt, *generated.ids, *([end] if generated.ended else [])]
    with torch.no_grad():
        logits = transformers.GPT2LMHeadModel.from_pretrained(folder).eval()(torch.tensor([ids])).logits[0]
    said = torch.tensor(ids[len(prompt) :])
    return float(logits.double().log_softmax(-1)[len(prompt) - 1 : -1].gather(1, said[:, None]).mean())


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_greedy_answers_are_those_of_each_prompt_alone_in_the_order_asked(model, tokenizer, rng, batch_size):
    prompts = random_prompts(rng)
    answers = Engine(model, tokenizer, CHAT, Greedy(max_new_tokens=12, batch_size=batch_size))
    found = answers.answers(prompts)
    for example, several in zip(prompts, found, strict=True):
        (ids,) = answers.encode(example).windows
        alone = list(stream(model, ids, make_sampler(greedy=True), 12, 256))
        assert [answer.text for answer in several] == [tokenizer.decode(alone).strip()]
        assert several[0].tokens == min(12, len(alone) + 1)
    assert [answers.answers([example])[0][0].text for example in prompts] == [several[0].text for several in found]


def test_nothing_asked_is_nothing_answered(model, tokenizer):
    assert Engine(model, tokenizer, CHAT, Greedy()).answers([]) == []


@pytest.mark.parametrize(("samples", "best_of"), [(1, 5), (3, 5), (4, 1)])
def test_the_likeliest_of_what_is_drawn_are_kept_in_order(folder, model, tokenizer, rng, monkeypatch, samples, best_of):
    drawn = record_drawn(monkeypatch)
    decoding = Greedy(samples=samples, best_of=best_of, seed=int(rng.integers(99)), batch_size=8, **DRAWN)
    answers = Engine(model, tokenizer, CHAT, decoding)
    prompts = random_prompts(rng, 3)[:3]
    found = answers.answers(prompts)
    assert len(drawn) == 3 * max(samples, best_of)
    for example, several in zip(prompts, found, strict=True):
        (ids,) = answers.encode(example).windows
        own = [generated for prompt, generated in drawn if np.array_equal(prompt, ids)]
        scores = [torch_score(folder, ids, generated) for generated in own]
        best = np.argsort(scores)[::-1][:samples]
        assert [answer.text for answer in several] == [tokenizer.decode(own[place].ids).strip() for place in best]
        assert [answer.score for answer in several] == pytest.approx([scores[place] for place in best], abs=SCORE)


def test_a_score_counts_the_end_token_and_is_the_models_own_under_a_penalty(folder, model, monkeypatch):
    drawn, options = record_drawn(monkeypatch), {"repetition_penalty": 1.4, "max_new_tokens": 9}
    ended, prompt = load_tokenizer(folder), TEXT.prompt("a warm sun")
    Engine(model, ended, TEXT, Greedy(**options)).answers([prompt])
    ended.eos_token = ended.convert_ids_to_tokens(drawn[0][1].ids[5])  # the sixth token, or one before it, ends now
    (answer,) = Engine(model, ended, TEXT, Greedy(**options)).answers([prompt])[0]
    (ids, whole), (_, generated) = drawn
    assert generated.ended and generated.ids == whole.ids[: answer.tokens - 1] and 1 <= answer.tokens <= 6
    assert answer.score == pytest.approx(torch_score(folder, ids, generated, ended.eos_token_id), abs=SCORE)


def test_beams_are_those_of_the_search_alone(model, tokenizer, rng):
    how = {"num_beams": 3, "samples": 2, "length_penalty": 0.3, "no_repeat_ngram_size": 2}
    decoding = Greedy(max_new_tokens=8, batch_size=7, **how)
    answers = Engine(model, tokenizer, CHAT, decoding)
    prompts = random_prompts(rng, 4)
    for example, several in zip(prompts, answers.answers(prompts), strict=True):
        (beams,) = beam.beam_search(model, answers.encode(example).windows, 3, 8, 256, 0.3, 2, samples=2)
        assert [answer.text for answer in several] == [tokenizer.decode(found.ids).strip() for found in beams]
        assert [answer.score for answer in several] == pytest.approx([found.score for found in beams], abs=SCORE)


@pytest.mark.parametrize("num_beams", [1, 2])
def test_a_question_read_in_windows_gets_the_likeliest_answer_of_them_all(model, tokenizer, monkeypatch, num_beams):
    def answered(ids):
        """Says how many b's a prompt holds, and is the surer the more there are."""
        count = tokenizer.decode(ids).count("b")
        return Generated(tokenizer.encode(f" {count}!"), True, (count - 99.0) * 3, 3)

    let_say(monkeypatch, answered)
    monkeypatch.setattr(beam, "beam_search", lambda model, prompts, *_, **more: [[answered(ids)] for ids in prompts])
    answers = Engine(model, tokenizer, SQUAD, Greedy(max_new_tokens=20, batch_size=2, num_beams=num_beams))
    contexts = ["a" * 60 + "b" * 5 + "a" * 60, "bb", "a" * 90 + "b" * 3, "b" * 9 + "a" * 40]
    examples = [SQUAD.prompt(context, "how?") for context in contexts]
    assert [len(answers.encode(example).windows) > 1 for example in examples] == [True, False, True, False]
    found = answers.answers(examples)
    assert [[answer.text for answer in several] for several in found] == [["5!"], ["2!"], ["3!"], ["9!"]]
    assert [several[0].score for several in found] == [-94.0, -97.0, -96.0, -90.0]


def test_beams_of_all_windows_are_ranked_by_their_own_score(model, tokenizer, monkeypatch):
    def search(model, prompts, width, *options, samples):
        # after a length penalty the less likely a token, the better the beam may be
        for ids in prompts:
            of_window = np.arange(samples) + 10 * tokenizer.decode(ids).count("b")
            yield [Generated(tokenizer.encode(f"{n}"), True, -float(n), 1, beam_score=float(n)) for n in of_window]

    monkeypatch.setattr(beam, "beam_search", lambda *given, **more: list(search(*given, **more)))
    decoding = Greedy(max_new_tokens=20, num_beams=3, samples=2, length_penalty=2.0)
    (found,) = Engine(model, tokenizer, SQUAD, decoding).answers([SQUAD.prompt("a" * 80 + "b" * 4, "how?")])
    assert [(answer.text, answer.score) for answer in found] == [("41", -41.0), ("40", -40.0)]


def test_a_stop_string_ends_the_text_before_it():
    nano = tasks.find("text"), GPT2LMHeadModel.from_pretrained("nano"), load_tokenizer("checkpoints/gpt2-nano")
    task, model, tokenizer = nano
    prompts = [task.prompt("Hello, how are"), task.prompt("I think that")]
    whole = [several[0].text for several in Engine(model, tokenizer, task, Greedy(max_new_tokens=20)).answers(prompts)]
    stop = whole[0][len(whole[0]) // 2 :][:3]  # its beginning need not be a token's
    stopping = Engine(model, tokenizer, task, Greedy(max_new_tokens=20, stop=(stop, "never said")))
    found = [several[0].text for several in stopping.answers(prompts)]
    assert found == [text.partition(stop)[0] for text in whole] and found[0] != whole[0]


def test_a_seed_gives_the_same_answers_again_and_a_session_never_twice(model, tokenizer, rng):
    prompts = random_prompts(rng)

    def texts(answers):
        return [answer.text for several in answers.answers(prompts) for answer in several]

    seeded = [Engine(model, tokenizer, CHAT, Greedy(seed=seed, samples=2, **DRAWN)) for seed in (5, 5, 6)]
    first, again, other = map(texts, seeded)
    assert first == again != other
    assert texts(seeded[0]) == texts(seeded[1]) != first  # the generator goes on


def test_what_a_seed_draws_depends_on_no_batch(model, tokenizer, rng):
    prompts = random_prompts(rng)

    def engine(batch_size: int) -> Engine:
        return Engine(model, tokenizer, CHAT, Greedy(seed=8, temperature=1.5, batch_size=batch_size, **DRAWN))

    found = [engine(batch_size).answer(prompts) for batch_size in (1, 3, 16)]
    assert found[0] == found[1] == found[2]
    streaming = engine(16)
    assert ["".join(streaming.stream(example)) for example in prompts] == found[0]


def test_a_prompt_that_is_too_long_is_named_by_where_it_stands(model, tokenizer):
    answers = Engine(model, tokenizer, SQUAD, Greedy(max_new_tokens=20))
    examples = [SQUAD.prompt("tea", "why?"), SQUAD.prompt("tea", "why?" * 20)]
    named = [Example(example.segments, f"dev.json:{number}") for number, example in enumerate(examples, 1)]
    with pytest.raises(UserError, match=r"^dev.json:2: the prompt takes \d+ tokens at least, 81 fit: shorten it$"):
        answers.answers(named)
    with pytest.raises(UserError, match=r"^the prompt takes \d+ tokens at least"):
        answers.answers(examples)


@pytest.mark.parametrize(("positions", "new", "room"), [(101, 20, 81), (101, 80, 51), (101, 999, 51), (1024, 80, 944)])
def test_a_prompt_leaves_room_for_the_answer_but_keeps_half_of_the_positions(positions, new, room):
    assert Greedy(max_new_tokens=new).max_prompt_tokens(positions) == room


@pytest.mark.parametrize(("max_length", "room"), [(None, 81), (40, 20), (50, 30), (30, 15), (999, 81)])
def test_a_prompt_and_its_answer_are_no_longer_than_in_training(model, tokenizer, max_length, room):
    answers = Engine(model, tokenizer, TEXT, Greedy(max_new_tokens=20), max_length)
    (ids,) = answers.encode(Example((Segment("y" * room, scored=False, end=False),))).windows
    assert len(ids) == room
    with pytest.raises(UserError, match=f"the prompt takes {room + 1} tokens, {room} fit"):
        answers.encode(Example((Segment("y" * (room + 1), scored=False, end=False),)))


def test_a_description_may_say_what_its_meaning_says_but_nothing_twice(model, tokenizer):
    options = {"no_repeat_ngram_size": 1, "max_new_tokens": 30}
    text = "".join(map(chr, range(33, 95))).translate(str.maketrans("", "", "[],|:"))  # much of what a model could say
    answers = Engine(model, tokenizer, E2E, Greedy(**options, end_ids=()))
    prompt = answers.encode(answers.example(f"name[{text}]"))
    sample, (ids,) = make_sampler(greedy=True, no_repeat_ngram_size=1), prompt.windows
    alone, with_prompt = (
        [token.id for _, token in continued(model, [Text(ids, sample, 30, frozenset(), penalise_prompt=seen)], 1)]
        for seen in (False, True)
    )
    assert set(alone) & set(ids.tolist()) and len(set(alone)) == 30 and not set(with_prompt) & set(ids.tolist())
    expected = tokenizer.decode(alone, skip_special_tokens=True).strip()
    assert answers.answer(prompt) == "".join(answers.stream(prompt)).strip() == expected
    beams = Engine(model, tokenizer, E2E, Greedy(**options, num_beams=2, end_ids=()))
    (found,) = beam.beam_search(model, [ids], 2, 30, (), no_repeat_ngram_size=1, penalise_prompt=False)
    assert beams.answer(prompt) == tokenizer.decode(found[0].ids, skip_special_tokens=True).strip()


def test_special_tokens_are_not_part_of_an_answer(folder, model, monkeypatch):
    tokenizer = load_tokenizer(folder)
    user, end = add_tokens(tokenizer, ["<USER>", "<END>"])
    ids = [user, *tokenizer.encode(" tea"), 256, *tokenizer.encode("s "), end]
    let_say(monkeypatch, lambda _: Generated(ids, False, -1.0, len(ids)))
    (answer,) = Engine(model, tokenizer, CHAT, Greedy()).answers([CHAT.prompt(["Hi."])])[0]
    assert answer.text == "teas" and answer.tokens == len(ids) == 9


def test_the_longest_prompt_still_gets_the_longest_answer(model, tokenizer):
    answers = Engine(model, tokenizer, TEXT, Greedy(max_new_tokens=20))
    example = Example((Segment("y" * 81, scored=False, end=False),))
    (ids,) = answers.encode(example).windows
    assert len(ids) == 81 and answers.answers([example])[0][0].tokens == 20
    with pytest.raises(UserError, match="81 fit"):
        answers.encode(Example((Segment("y" * 82, scored=False, end=False),)))


@pytest.mark.parametrize(
    ("options", "streams"), [({}, True), ({"samples": 2}, False), ({"best_of": 2}, False), ({"num_beams": 2}, False)]
)
def test_only_a_single_answer_is_streamed(options, streams):
    assert Greedy(**options).streams is streams
