"""Conversations as ids, beside transformers' apply_chat_template: our template and others."""

import numpy as np
import pytest
from tiny import byte_tokenizer

from common.errors import UserError
from datasets.encode import IGNORED
from datasets.tasks.own.conversations import conversation, prompt
from datasets.turns import conversation_prompt, conversations, ours, teach
from gpt2_jittor.checkpoint.locate import NANO
from gpt2_jittor.checkpoint.tokenizer import add_tokens, load_tokenizer

WORDS = ["tea", "sun?", "we", "I'm", "drink\nit", "Ünder", "日本", "<|endoftext"]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ALPACA = (
    "{% for m in messages %}{% if m['role'] == 'user' %}### User: {{ m['content'] }}\n"
    "{% elif m['role'] == 'assistant' %}### Bot: {{ m['content'] }}{{ eos_token }}\n"
    "{% else %}{{ raise_exception('no system') }}{% endif %}{% endfor %}"
)


def turns(rng, system: bool = False, count: int = 4) -> list[tuple[str, str]]:
    found = [
        (("user", "assistant")[index % 2], " ".join(rng.choice(WORDS, rng.integers(1, 6)))) for index in range(count)
    ]
    return [("system", "Be kind."), *found] if system else found


def rendered(tokenizer, said, **options) -> list[int]:
    messages = [{"role": role, "content": text} for role, text in said]
    return tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **options)


def tokenizer_of(template: str | None, added=()):
    tokenizer = load_tokenizer(NANO)
    add_tokens(tokenizer, added)
    tokenizer.chat_template = template or ours(tokenizer)
    return tokenizer


KINDS = {
    "ours": (None, ()),
    "ours with speakers": (None, ("<USER>", "<BOT>")),
    "chatml": (CHATML, ("<|im_start|>", "<|im_end|>")),
    "without an opening": (ALPACA, ()),
}


@pytest.fixture(params=KINDS.values(), ids=KINDS.keys())
def tokenizer(request):
    return tokenizer_of(*request.param)


def test_the_ids_are_those_of_apply_chat_template(tokenizer, rng):
    said = turns(rng, system=tokenizer.chat_template != ALPACA)
    (item,) = conversations([conversation(said)], tokenizer, 500).items
    assert item.input_ids.tolist() == rendered(tokenizer, said)


def test_what_is_continued_is_what_apply_chat_template_opens_and_what_was_trained(tokenizer, rng):
    said = turns(rng)
    history = [text for _, text in said[:-1]]
    (ids,) = conversation_prompt(prompt(history), tokenizer, 500)
    assert ids.tolist() == rendered(tokenizer, said[:-1], add_generation_prompt=True)
    (item,) = conversations([conversation(said)], tokenizer, 500).items
    np.testing.assert_array_equal(item.input_ids[: len(ids)], ids)
    assert (item.labels[len(ids) :] == item.input_ids[len(ids) :]).all(), "all of the last answer is scored"


def test_every_answer_is_scored_with_its_end_and_nothing_else(tokenizer, rng):
    said = turns(rng)
    (item,) = conversations([conversation(said)], tokenizer, 500).items
    expected = np.full_like(item.labels, IGNORED)
    for index in (1, 3):
        begin = len(rendered(tokenizer, said[:index], add_generation_prompt=True))
        end = len(rendered(tokenizer, said[: index + 1]))
        expected[begin:end] = item.input_ids[begin:end]
    np.testing.assert_array_equal(item.labels, expected)


def test_a_special_token_that_is_spelled_out_is_text_in_every_template(tokenizer):
    said = [("user", "a<|endoftext|>b"), ("assistant", "no<|endoftext|>")]
    (item,) = conversations([conversation(said)], tokenizer, 500).items
    plain = [("user", "a"), ("assistant", "no")]
    ends = (rendered(tokenizer, plain)).count(tokenizer.eos_token_id)
    assert item.input_ids.tolist().count(tokenizer.eos_token_id) == ends


def test_oldest_turns_are_forgotten_up_to_a_users_and_the_system_stays(tokenizer, rng):
    has_system = tokenizer.chat_template != ALPACA
    said = turns(rng, system=has_system, count=8)
    for kept in (2, 4, 6):
        shorter = [*said[:has_system], *said[-kept:]]
        length = len(rendered(tokenizer, shorter))
        encoded = conversations([conversation(said)], tokenizer, length)
        assert encoded[0].input_ids.tolist() == rendered(tokenizer, shorter) and encoded.shortened == 1


def test_one_whose_last_turns_do_not_fit_is_dropped_with_its_place(tokenizer, rng):
    said = [("user", "a"), ("assistant", "b")]
    long, short = conversation([*turns(rng), ("user", "tea " * 9), ("assistant", "b")], "a:1"), conversation(said)
    encoded = conversations([long, short], tokenizer, len(rendered(tokenizer, said)))
    assert encoded.kept == [1] and encoded.dropped[0].startswith("a:1: what was said last takes ")
    with pytest.raises(UserError, match="what was said last takes .* tokens, 3 fit: shorten it"):
        conversation_prompt(prompt(["tea " * 9]), tokenizer, 3)


def test_a_conversation_that_a_template_refuses_is_dropped_with_the_templates_words(rng):
    tokenizer = tokenizer_of(ALPACA)
    said = [conversation(turns(rng, system=True), "a:1"), conversation(turns(rng), "a:2")]
    encoded = conversations(said, tokenizer, 500)
    assert encoded.kept == [1]
    assert encoded.dropped == ["a:1: the chat template cannot render it: no system"]


def test_a_template_that_changes_earlier_turns_is_refused(rng):
    tokenizer = tokenizer_of("{{ messages | length }}: {% for m in messages %}{{ m['content'] }} {% endfor %}")
    with pytest.raises(UserError, match="chat template changes what was said before turn 2"):
        conversations([conversation(turns(rng), "a:1")], tokenizer, 500)


def test_what_closes_an_answer_becomes_the_end_token_which_must_be_a_special_one():
    tokenizer = tokenizer_of(CHATML, ("<|im_start|>", "<|im_end|>"))
    teach(tokenizer)
    assert (tokenizer.eos_token, tokenizer.chat_template) == ("<|im_end|>", CHATML)
    tokenizer = tokenizer_of(ALPACA)
    teach(tokenizer)
    assert (tokenizer.eos_token, tokenizer.chat_template) == ("<|endoftext|>", ALPACA)
    with pytest.raises(UserError, match="ends no answer with a special token"):
        teach(tokenizer_of(ALPACA.replace("{{ eos_token }}", "")))


def test_a_tokenizer_is_taught_the_template_that_is_given_else_its_own_else_ours(tmp_path):
    tokenizer = byte_tokenizer(tmp_path)
    teach(tokenizer)
    assert (tokenizer.chat_template, tokenizer.eos_token) == (ours(tokenizer), "<|endoftext|>")
    teach(tokenizer, ALPACA)
    assert tokenizer.chat_template == ALPACA
    teach(tokenizer)
    assert tokenizer.chat_template == ALPACA


def test_without_a_template_it_is_ours(tmp_path, rng):
    tokenizer, said = byte_tokenizer(tmp_path), turns(rng)
    (bare,) = conversations([conversation(said)], tokenizer, 500).items
    tokenizer.chat_template = ours(tokenizer)
    assert bare.input_ids.tolist() == rendered(tokenizer, said)
