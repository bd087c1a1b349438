"""Conversations as ids, beside transformers' apply_chat_template: our template and others."""

import numpy as np
import pytest
from own_records import conversation
from tiny import byte_tokenizer

from common.errors import UserError
from datasets.encode import IGNORED
from datasets.tasks.own.conversations import prompt
from datasets.turns import conversation_prompt, conversations, ours, teach
from gpt2_jittor.checkpoint.locate import NANO
from gpt2_jittor.checkpoint.tokenizer import add_tokens, load_tokenizer

WORDS = ["tea", "sun?", "we", "I'm", "drink\nit", "Ünder", "日本", "<|endoftext"]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHATML_BARE = CHATML[: CHATML.index("{% if add_generation_prompt")]
ALPACA = (
    "{% for m in messages %}{% if m['role'] == 'user' %}### Instruction:\n{{ m['content'] }}\n\n"
    "{% elif m['role'] == 'assistant' %}### Response:\n{{ m['content'] }}{{ eos_token }}\n\n"
    "{% else %}{{ m['content'] }}\n\n{% endif %}{% endfor %}{% if add_generation_prompt %}### Response:\n{% endif %}"
)
VICUNA = (
    "{% for m in messages %}{% if m['role'] == 'user' %}USER: {{ m['content'] }} "
    "{% elif m['role'] == 'assistant' %}ASSISTANT: {{ m['content'] }}{{ eos_token }}"
    "{% else %}{{ m['content'] }} {% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
BARE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}### User: {{ m['content'] }}\n"
    "{% elif m['role'] == 'assistant' %}### Bot: {{ m['content'] }}{{ eos_token }}\n"
    "{% else %}{{ raise_exception('no system') }}{% endif %}{% endfor %}"
)

HEADERS = {CHATML_BARE: "<|im_start|>assistant\n", BARE: "### Bot:"}  # what opens an answer without a generation prompt


def turns(rng, system: bool = False, count: int = 4) -> list[tuple[str, str]]:
    found = [
        (("user", "assistant")[index % 2], " ".join(rng.choice(WORDS, rng.integers(1, 6)))) for index in range(count)
    ]
    return [("system", "Be kind."), *found] if system else found


def rendered(tokenizer, said, **options) -> list[int]:
    messages = [{"role": role, "content": text} for role, text in said]
    return tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **options)


def opened(tokenizer, said) -> list[int]:
    """The ids that an answer continues."""
    if tokenizer.chat_template not in HEADERS:
        return rendered(tokenizer, said, add_generation_prompt=True)
    messages = [{"role": role, "content": text} for role, text in said]
    text = tokenizer.apply_chat_template(messages, tokenize=False) + HEADERS[tokenizer.chat_template]
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def tokenizer_of(template: str | None, added=()):
    tokenizer = load_tokenizer(NANO)
    add_tokens(tokenizer, added)
    tokenizer.chat_template = template or ours(tokenizer)
    return tokenizer


KINDS = {
    "ours": (None, ()),
    "ours with speakers": (None, ("<USER>", "<BOT>")),
    "chatml": (CHATML, ("<|im_start|>", "<|im_end|>")),
    "chatml without an opening": (CHATML_BARE, ("<|im_start|>", "<|im_end|>")),
    "alpaca": (ALPACA, ()),
    "vicuna": (VICUNA, ()),
    "without an opening": (BARE, ()),
}


@pytest.fixture(params=KINDS.values(), ids=KINDS.keys())
def tokenizer(request):
    tokenizer = tokenizer_of(*request.param)
    teach(tokenizer)
    return tokenizer


def test_the_ids_are_those_of_apply_chat_template(tokenizer, rng):
    said = turns(rng, system=tokenizer.chat_template != BARE)
    (item,) = conversations([conversation(said)], tokenizer, 500).items
    assert item.input_ids.tolist() == rendered(tokenizer, said)


def test_what_is_continued_is_what_apply_chat_template_opens_and_what_was_trained(tokenizer, rng):
    said = turns(rng)
    history = [text for _, text in said[:-1]]
    (ids,) = conversation_prompt(prompt(history), tokenizer, 500)
    assert ids.tolist() == opened(tokenizer, said[:-1])
    (item,) = conversations([conversation(said)], tokenizer, 500).items
    np.testing.assert_array_equal(item.input_ids[: len(ids)], ids)
    answer, labels = item.input_ids[len(ids) :].tolist(), item.labels[len(ids) :].tolist()
    end = answer.index(tokenizer.eos_token_id) + 1
    assert labels[:end] == answer[:end], "all of the last answer is scored"
    assert set(labels[end:]) <= {IGNORED}, "what stands behind its end is not"


@pytest.mark.parametrize("answers", [(1, 3), (1,), (3,)])
def test_every_answer_that_is_not_given_is_scored_with_its_end_and_nothing_else(tokenizer, rng, answers):
    said = turns(rng)
    marked = [(*turn, index not in answers) for index, turn in enumerate(said)]
    (item,) = conversations([conversation(marked)], tokenizer, 500).items
    expected = np.full_like(item.labels, IGNORED)
    for index in answers:
        begin = len(opened(tokenizer, said[:index]))
        end = rendered(tokenizer, said).index(tokenizer.eos_token_id, begin) + 1
        expected[begin:end] = item.input_ids[begin:end]
    np.testing.assert_array_equal(item.labels, expected)


def test_a_special_token_that_is_spelled_out_is_text_in_every_template(tokenizer):
    said = [("user", "a<|endoftext|>b"), ("assistant", "no<|endoftext|>")]
    (item,) = conversations([conversation(said)], tokenizer, 500).items
    plain = [("user", "a"), ("assistant", "no")]
    ends = (rendered(tokenizer, plain)).count(tokenizer.eos_token_id)
    assert item.input_ids.tolist().count(tokenizer.eos_token_id) == ends


def test_a_text_is_never_the_templates_markup(rng):
    tokenizer = tokenizer_of(CHATML, ("<|im_start|>", "<|im_end|>"))
    teach(tokenizer)
    start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])

    def plain(text):
        return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    asked, answer = "<|im_start|>user", f"no<|im_end|> {rng.choice(WORDS)}"
    (item,) = conversations([conversation([("user", asked), ("assistant", answer)])], tokenizer, 500).items
    given = [start, *plain(f"user\n{asked}"), end, *plain("\n"), start, *plain("assistant\n")]
    said = [*plain(answer), end]
    assert item.input_ids.tolist() == [*given, *said, *plain("\n")]
    assert item.labels.tolist() == [IGNORED] * len(given) + said + [IGNORED]


def test_what_a_template_makes_of_a_text_is_kept_unless_it_would_break_a_special_token(rng):
    tokenizer = tokenizer_of(CHATML.replace("{{ m['content'] }}", "{{ m['content'][:2] }}"), ("<|im_end|>",))
    said, spelled = turns(rng), [("user", "a"), ("assistant", "b<|im_end|>")]
    encoded = conversations([conversation(said, "a:1"), conversation(spelled, "a:2")], tokenizer, 500)
    assert [item.input_ids.tolist() for item in encoded.items] == [rendered(tokenizer, said)]
    assert encoded.dropped == ["a:2: turn 2 spells out a special token, and the chat template alters it"]


def test_a_prompt_forgets_its_oldest_turns_up_to_a_users_and_keeps_the_systems(tokenizer, rng):
    has_system = tokenizer.chat_template != BARE
    said = turns(rng, count=9)
    system = "Be kind." if has_system else ""
    for kept in (1, 3, 5, 7):
        shorter = [("system", system)] * has_system + said[-kept:]
        expected = opened(tokenizer, shorter)
        example = prompt([text for _, text in said], system)
        assert conversation_prompt(example, tokenizer, len(expected))[0].tolist() == expected


def test_a_long_conversation_is_parted_before_turns_of_the_users_and_each_answer_is_scored_once(tokenizer, rng):
    has_system = tokenizer.chat_template != BARE
    said = turns(rng, system=has_system, count=12)
    system, rounds = said[:has_system], [said[begin : begin + 2] for begin in range(has_system, len(said), 2)]
    most = max(len(rendered(tokenizer, [*system, *each])) for each in rounds)
    for length in (most, most + 30, most + 100):
        encoded = conversations([conversation(said, "a:1")], tokenizer, length)
        assert max(encoded.lengths) <= length and encoded.kept == [0] * len(encoded) and not encoded.dropped
        parts, begin = [], 0
        while begin < len(rounds):  # as many rounds as fit, one at least
            ids = [rendered(tokenizer, sum(rounds[begin:end], system)) for end in range(begin + 1, len(rounds) + 1)]
            fitting = [each for each in ids if len(each) <= length]
            parts.append(fitting[-1])
            begin += len(fitting)
        assert [item.input_ids.tolist() for item in encoded.items] == parts
        assert encoded.cut == (["a:1"] if len(parts) > 1 else [])
        alone = [conversations([conversation([*system, *each])], tokenizer, 500) for each in rounds]
        assert encoded.scored == sum(each.scored for each in alone)


def test_what_does_not_fit_is_left_out_with_its_place(tokenizer):
    short, long = [("user", "a"), ("assistant", "b")], [("user", "tea" * 9), ("assistant", "b")]
    length = len(rendered(tokenizer, short))
    examples = [conversation([*short, *long, *short], "a:1"), conversation(long, "a:2"), conversation(short, "a:3")]
    encoded = conversations(examples, tokenizer, length)
    assert encoded.kept == [0, 0, 2] and encoded.cut == ["a:1"]
    assert {tuple(item.input_ids.tolist()) for item in encoded.items} == {tuple(rendered(tokenizer, short))}
    size = len(rendered(tokenizer, long))
    assert encoded.dropped == [
        f"a:1: turns 3 to 4 take {size} tokens, {length} fit",
        f"a:2: turns 1 to 2 take {size} tokens, {length} fit",
    ]
    with pytest.raises(UserError, match="the last turn takes .* tokens, 3 fit: shorten it"):
        conversation_prompt(prompt(["tea " * 9]), tokenizer, 3)


@pytest.mark.parametrize("count", [20, 33, 150])
@pytest.mark.parametrize("length", [80, 400, 5000, 100_000])
def test_of_a_long_chat_as_much_is_kept_as_fits_and_what_is_forgotten_costs_nothing(rng, count, length, monkeypatch):
    tokenizer = tokenizer_of(*KINDS["chatml"])
    said = turns(rng, system=True, count=2 * count + 1)
    system, rounds = said[:1], [said[start : start + 2] for start in range(1, len(said), 2)]
    fitting = [
        ids
        for start in range(len(rounds))
        if len(ids := rendered(tokenizer, sum(rounds[start:], system), add_generation_prompt=True)) <= length
    ]
    cost, original = [0], tokenizer.apply_chat_template

    def counting(messages, **options):
        cost[0] += len(messages)
        return original(messages, **options)

    monkeypatch.setattr(tokenizer, "apply_chat_template", counting)
    asked = prompt([text for _, text in said[1:]], system="Be kind.")
    (ids,) = conversation_prompt(asked, tokenizer, length)
    assert ids.tolist() == fitting[0]
    kept = 2 * len(fitting)
    assert cost[0] < 20 * max(64, kept) ** 2, "nothing of it is the square of all"


def test_a_conversation_that_a_template_refuses_is_dropped_with_the_templates_words(rng):
    tokenizer = tokenizer_of(BARE)
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
    tokenizer = tokenizer_of(CHATML_BARE, ("<|im_start|>", "<|im_end|>"))
    teach(tokenizer)
    assert tokenizer.eos_token == "<|im_end|>", "not the token that opens a turn"
    tokenizer = tokenizer_of(BARE)
    teach(tokenizer)
    assert (tokenizer.eos_token, tokenizer.chat_template) == ("<|endoftext|>", BARE)
    with pytest.raises(UserError, match="ends no answer with a special token"):
        teach(tokenizer_of(BARE.replace("{{ eos_token }}", "")))
    with pytest.raises(UserError, match="does not write once and whole what the assistant says"):
        teach(tokenizer_of(BARE.replace("Bot: {{ m['content'] }}", "Bot: {{ m['content'][:1] }}")))


def test_a_tokenizer_is_taught_the_template_that_is_given_else_its_own_else_ours(tmp_path):
    tokenizer = byte_tokenizer(tmp_path)
    teach(tokenizer)
    assert (tokenizer.chat_template, tokenizer.eos_token) == (ours(tokenizer), "<|endoftext|>")
    teach(tokenizer, BARE)
    assert tokenizer.chat_template == BARE
    teach(tokenizer)
    assert tokenizer.chat_template == BARE


def test_without_a_template_it_is_ours(tmp_path, rng):
    tokenizer, said = byte_tokenizer(tmp_path), turns(rng)
    (bare,) = conversations([conversation(said)], tokenizer, 500).items
    tokenizer.chat_template = ours(tokenizer)
    assert bare.input_ids.tolist() == rendered(tokenizer, said)
