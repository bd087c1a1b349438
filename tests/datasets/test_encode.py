"""Ids and labels: worked out by hand from the ids of each text alone."""

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from common.errors import UserError
from datasets.encode import IGNORED, Encoded, EncodedSet, dialogue, dialogue_prompt, packed, report, speaker_ids
from datasets.example import Dataset, Example, Segment
from gpt2_jittor.checkpoint.tokenizer import add_tokens

SENTENCES = ["How are you today?", "I'm fine, thank you.\n\nAnd you?", "Well, the weather is fine."]
USER, BOT, END = 294, 295, 296


def trained() -> PreTrainedTokenizerFast:
    """A byte-level BPE like GPT-2's, with a handful of merges."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"])
    bpe.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|endoftext|>")


@pytest.fixture(scope="module")
def tokenizer():
    return trained()


@pytest.fixture(scope="module")
def marked():
    """The same tokenizer after `--added-tokens "<USER>" "<BOT>" "<END>"`: their ids follow on its 294."""
    tokenizer = trained()
    assert add_tokens(tokenizer, ["<USER>", "<BOT>", "<END>"]) == [USER, BOT, END]
    return tokenizer


def talk(*turns: str, source: str = "talk.txt:1") -> Example:
    segments = (Segment(turn, scored=index > 0, speaker=index % 2) for index, turn in enumerate(turns))
    return Example(tuple(segments), source)


def ids(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_a_dialogue_gives_its_first_turn_and_scores_the_others_with_their_end_tokens(tokenizer):
    first, second, end = ids(tokenizer, "How are you?"), ids(tokenizer, "Fine."), tokenizer.eos_token_id
    item = dialogue([talk("How are you?", "Fine.")], tokenizer, 100)[0]
    assert item.input_ids.tolist() == [*first, end, *second, end]
    assert item.labels.tolist() == [IGNORED] * (len(first) + 1) + [*second, end]
    assert item.input_ids.dtype == item.labels.dtype == np.int32


def test_a_segment_without_an_end_is_followed_by_the_next_one_at_once(tokenizer):
    example = Example((Segment("How", scored=False, end=False), Segment(" are", scored=True, end=False)))
    assert dialogue([example], tokenizer, 9)[0].input_ids.tolist() == ids(tokenizer, "How are")


def test_a_long_dialogue_forgets_whole_turns_from_its_front_and_gives_the_first_kept_one(tokenizer):
    end, second, third = tokenizer.eos_token_id, ids(tokenizer, "Fine."), ids(tokenizer, "Well.")
    fits = len(second) + len(third) + 2
    encoded = dialogue([talk("How are you?", "Fine.", "Well.")], tokenizer, fits)
    assert encoded[0].input_ids.tolist() == [*second, end, *third, end]
    assert encoded[0].labels.tolist() == [IGNORED] * (len(second) + 1) + [*third, end]
    assert encoded.shortened == 1


def test_a_dialogue_whose_last_two_turns_do_not_fit_is_dropped_with_its_source(tokenizer):
    needed = len(ids(tokenizer, "Fine.")) + len(ids(tokenizer, "Well.")) + 2
    good, bad = talk("a", "b"), talk("How are you?", "Fine.", "Well.", source="talk.txt:7")
    encoded = dialogue([good, bad], tokenizer, needed - 1)
    assert len(encoded) == 1
    assert encoded.dropped == [f"talk.txt:7: its last two segments take {needed} tokens, {needed - 1} fit"]


def test_a_dialogue_in_which_nothing_is_scored_is_dropped(tokenizer):
    mute = Example((Segment("a", scored=False), Segment("b", scored=False)), "talk.txt:2")
    assert dialogue([talk("a", "b"), mute], tokenizer, 9).dropped == ["talk.txt:2: nothing in it is scored"]


def test_a_set_with_nothing_left_is_the_users_error_and_names_the_first_reason(tokenizer):
    with pytest.raises(UserError, match=r"none of the 1 examples can be used.*talk\.txt:1: its last two"):
        dialogue([talk("How are you?", "Fine.")], tokenizer, 3)


def test_packed_documents_are_one_stream_with_end_tokens_cut_into_full_windows(tokenizer):
    documents = ["How are you today?", "Well, 1234."]
    stream = [token for text in documents for token in [*ids(tokenizer, text), tokenizer.eos_token_id]]
    encoded = packed([Example((Segment(text, scored=True),)) for text in documents], tokenizer, 5)
    assert len(stream) % 5 != 1, "else a last token is left out: the next test's subject"
    assert [token for item in encoded.items for token in item.input_ids.tolist()] == stream
    assert {len(item.input_ids) for item in encoded.items[:-1]} == {5}
    assert all((item.labels == item.input_ids).all() for item in encoded.items)


@pytest.mark.parametrize(("length", "windows"), [(6, [4, 2]), (5, [4]), (8, [4, 4])])
def test_a_last_window_of_a_single_token_predicts_nothing_and_is_left_out(tokenizer, length, windows):
    text = "0" * (length - 1)  # the merges know no digits: a token a digit, and the end token
    encoded = packed([Example((Segment(text, scored=True),))], tokenizer, 4)
    assert encoded.lengths == windows


@pytest.mark.parametrize("spaces", [" ", "\n\n", " \n \n"])
def test_a_text_long_enough_to_be_cut_for_tokenising_has_the_tokens_of_the_uncut_text(tokenizer, monkeypatch, spaces):
    text = spaces.join(SENTENCES * 20)
    monkeypatch.setattr("datasets.encode.PIECE", 50)
    monkeypatch.setattr("datasets.encode.BATCH", 7)
    item = packed([Example((Segment(text, scored=True, end=False),))], tokenizer, 100_000)[0]
    assert item.input_ids.tolist() == ids(tokenizer, text)


def test_an_end_token_spelled_out_in_a_text_is_not_an_end_token(tokenizer):
    item = dialogue([talk("<|endoftext|>", "Fine.")], tokenizer, 100)[0]
    assert item.input_ids.tolist().count(tokenizer.eos_token_id) == 2


def document(text: str, **more) -> Example:
    return Example((Segment(text, scored=True, special=True, **more),))


def strewn(random: np.random.Generator, tokens: list[str], words: int) -> str:
    """Words, spaces of all kinds and special tokens, whole and cut off, in any order."""
    pieces = [
        "story",
        "it's",
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
        "é",
        "你好",
        "<|endof",
        "text|>",
        "<",
        "|>",
        "1",
        *tokens * 3,
    ]
    return "".join(random.choice(pieces, words))


@pytest.mark.parametrize("piece", [1, 7, 50, 1 << 16])
def test_special_tokens_in_a_document_are_those_of_transformers_wherever_it_is_cut(rng, monkeypatch, piece):
    tokenizer = trained()
    add_tokens(tokenizer, ["<USER>", "<END>", "<two words>", "[x"])
    greedy = AddedToken("<greedy>", special=True, lstrip=True, rstrip=True)  # takes the spaces beside it
    tokenizer.add_tokens([greedy], special_tokens=True)
    monkeypatch.setattr("datasets.encode.PIECE", piece)
    text = strewn(rng, ["<|endoftext|>", "<USER>", "<END>", "<two words>", "[x", "<greedy>"], 900)
    encoded = packed([document(text, end=False)], tokenizer, 100_000)
    assert encoded[0].input_ids.tolist() == tokenizer(text, add_special_tokens=False)["input_ids"]
    found = [token for token in encoded[0].input_ids.tolist() if token >= 295 or token == tokenizer.pad_token_id]
    assert sum(encoded.special.values()) >= len(found) > 100
    assert encoded.special == {name: text.count(name) for name in encoded.special}


@pytest.mark.parametrize("text", ["one<|endoftext|>", "one", "<|endoftext|>", "one<|endoftext|> "])
def test_a_document_that_ends_with_an_end_token_gets_no_second_one(tokenizer, text):
    end = tokenizer.eos_token_id
    expected = ids(tokenizer, text) + [end] * (not text.endswith("<|endoftext|>"))
    assert packed([document(text), document("b")], tokenizer, 99)[0].input_ids.tolist() == [
        *expected,
        *ids(tokenizer, "b"),
        end,
    ]


def test_the_report_says_which_special_tokens_were_found_and_how_often(marked):
    examples = [document("a<|endoftext|>b<|endoftext|>"), document("<USER> c <USER> d <USER>"), document("e <BOT")]
    said = report(Dataset("text", "train", examples), packed(examples, marked, 99))
    assert "\n  special tokens in the text: 3 <USER>, 2 <|endoftext|>" in said
    strangers = [Example((Segment("a<|endoftext|><USER>", scored=True),))]
    encoded = packed(strangers, marked, 99)
    assert "special" not in report(Dataset("imdb", "train", strangers), encoded)
    assert encoded[0].input_ids.tolist() == [
        *marked("a<|endoftext|><USER>", split_special_tokens=True)["input_ids"],
        END,
    ]


def test_tokens_that_can_be_predicted_are_counted_as_scored():
    items = [Encoded(np.arange(4), np.arange(4)), Encoded(np.arange(3), np.array([-100, -100, 2]))]
    assert (EncodedSet(items).tokens, EncodedSet(items).scored) == (7, 3 + 1)


def test_a_prompt_keeps_the_newest_turns_that_fit(tokenizer):
    last = [*ids(tokenizer, "Fine."), tokenizer.eos_token_id]
    for example in (talk("How are you today?", "Fine."), talk("How are you today?", "Fine.", "?").given):
        (prompt,) = dialogue_prompt(example, tokenizer, len(last) + 2)
        assert (prompt.tolist(), prompt.dtype) == (last, np.int32)
        with pytest.raises(UserError, match=f"takes {len(last)} tokens, {len(last) - 1} fit: shorten it"):
            dialogue_prompt(example, tokenizer, len(last) - 1)


def test_speakers_take_turns_from_the_user_on_and_their_marks_are_never_scored(marked):
    one, two, three = (ids(marked, text) for text in ("How are you?", "Fine.", "Well."))
    item = dialogue([talk("How are you?", "Fine.", "Well.")], marked, 100)[0]
    assert item.input_ids.tolist() == [USER, *one, END, BOT, *two, END, USER, *three, END]
    said = [IGNORED, *two, END, IGNORED, *three, END]
    assert item.labels.tolist() == [IGNORED] * (len(one) + 2) + said


def test_a_marked_prompt_ends_with_the_mark_of_the_speaker_who_is_next(marked):
    one, two = ids(marked, "How are you?"), ids(marked, "Fine.")
    for turns, expected in [
        (["How are you?"], [USER, *one, END, BOT]),
        (["How are you?", "Fine."], [USER, *one, END, BOT, *two, END, USER]),
    ]:
        assert dialogue_prompt(talk(*turns, "").given, marked, 100)[0].tolist() == expected
        whole = dialogue([talk(*turns, "Well.")], marked, 100)[0].input_ids.tolist()
        assert whole[: len(expected)] == expected, "as in training"


def test_speakers_stay_who_they_are_where_the_oldest_turns_are_forgotten(marked):
    two, three = ids(marked, "Fine."), ids(marked, "Well.")
    fits = len(two) + len(three) + 4
    item = dialogue([talk("How are you?", "Fine.", "Well.")], marked, fits)[0]
    assert item.input_ids.tolist() == [BOT, *two, END, USER, *three, END]
    assert item.labels.tolist() == [IGNORED] * (len(two) + 3) + [*three, END]
    talked = talk("How are you?", "Fine.", "Well.", "").given
    assert dialogue_prompt(talked, marked, fits + 1)[0].tolist() == [BOT, *two, END, USER, *three, END, BOT]
    assert dialogue_prompt(talked, marked, fits)[0].tolist() == [USER, *three, END, BOT]
    with pytest.raises(UserError, match=f"takes {len(three) + 3} tokens, {len(three) + 2} fit"):
        dialogue_prompt(talked, marked, len(three) + 2)


def test_a_mark_spelled_out_in_a_text_is_not_a_mark(marked):
    item = dialogue([talk("<BOT> <END> <USER>", "Fine.")], marked, 100)[0]
    assert [token for token in item.input_ids.tolist() if token >= USER] == [USER, END, BOT, END]


@pytest.mark.parametrize("unknown", [None, "<|endoftext|>", "<USER>"])
@pytest.mark.parametrize("added", [[], ["<USER>"], ["<BOT>", "<END>"]])
def test_a_tokenizer_without_both_marks_makes_the_ids_that_it_would_without_speakers(unknown, added):
    tokenizer = trained()
    add_tokens(tokenizer, added)
    if unknown in tokenizer.get_vocab():
        tokenizer.unk_token = unknown  # GPT-2's is its end token: whatever is asked for has an id
    assert speaker_ids(tokenizer) is None
    end, turns = tokenizer.eos_token_id, ("How are you?", "Fine.")
    plain = [token for turn in turns for token in [*ids(tokenizer, turn), end]]
    assert dialogue([talk(*turns)], tokenizer, 100)[0].input_ids.tolist() == plain
    assert dialogue_prompt(talk(*turns, "").given, tokenizer, 100)[0].tolist() == plain


@pytest.mark.parametrize("unknown", ["<|endoftext|>", "<BOT>"])
def test_both_marks_are_found_whatever_stands_for_unknown_tokens(marked, unknown):
    assert speaker_ids(marked) == [USER, BOT]
    tokenizer = trained()
    add_tokens(tokenizer, ["<USER>", "<BOT>"])
    tokenizer.unk_token = unknown
    assert speaker_ids(tokenizer) == [USER, BOT]


def test_what_is_given_stands_before_the_last_scored_segment_and_does_not_tell_where_the_answer_is():
    question, answer = Segment("Where?", scored=False, keep=(0, 2), cut=True), Segment("There.", scored=True)
    after = Segment("!", scored=False)
    asked = Segment("Where?", scored=False, cut=True)
    assert Example((question, answer, after), "f:1", name="q").given == Example((asked,), "f:1")
    assert Example((question, answer, answer)).given.segments == (asked, answer)
    assert Example((question, after), label=1).given.segments == (asked, after), "nothing is said: all is given"
    assert Example((answer,)).given.segments == ()
    mark = Segment("", scored=False, end=False, speaker=0)
    assert talk("a", "b", "c").given.segments == (*talk("a", "b").segments, mark)


def test_texts_that_stand_there_many_times_are_tokenised_once_each_and_keep_their_places(tokenizer, monkeypatch):
    monkeypatch.setattr("datasets.encode.BATCH", 7)
    turns = ["Fine.", "How are you?", "Fine.", "Well.", "Fine."] * 5
    item = dialogue([talk(*turns)] * 3, tokenizer, 1000)[2]
    assert item.input_ids.tolist() == [t for turn in turns for t in [*ids(tokenizer, turn), tokenizer.eos_token_id]]


def test_the_report_counts_and_spells_out_only_the_first_dropped_records():
    dropped = [f"t:{line}: empty" for line in range(1, 4)]
    dataset = Dataset("talks", "train", [talk("a", "b")] * 9, dropped, notes=["of which 2 are long"])
    item, dropped = Encoded(np.arange(1200), np.arange(1200)), ["t:8: too long", "t:9: too long"]
    encoded = EncodedSet([item], dropped=dropped, shortened=1)
    assert report(dataset, encoded).split("\n") == [
        "talks train: 9 examples, 1 sequences, 1,200 tokens, 1,199 scored",
        "  1 shortened to fit (their beginnings are left out)",
        "  of which 2 are long",
        "  dropped t:1: empty",
        "  dropped t:2: empty",
        "  dropped t:3: empty",
        "  ... 2 more dropped, 5 in all",
    ]
