"""Ids and labels: worked out by hand from the ids of each text alone."""

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from common.errors import UserError
from datasets.encode import IGNORED, Encoded, EncodedSet, dialogue, packed, prompt_ids, report
from datasets.example import Dataset, Example, Segment

SENTENCES = ["How are you today?", "I'm fine, thank you.\n\nAnd you?", "Well, the weather is fine."]


@pytest.fixture(scope="module")
def tokenizer():
    """A byte-level BPE like GPT-2's, with a handful of merges."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"])
    bpe.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|endoftext|>")


def talk(*turns: str, source: str = "talk.txt:1") -> Example:
    return Example(tuple(Segment(turn, scored=index > 0) for index, turn in enumerate(turns)), source)


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


def test_tokens_that_can_be_predicted_are_counted_as_scored():
    items = [Encoded(np.arange(4), np.arange(4)), Encoded(np.arange(3), np.array([-100, -100, 2]))]
    assert (EncodedSet(items).tokens, EncodedSet(items).scored) == (7, 3 + 1)


def test_a_prompt_keeps_the_newest_turns_that_fit(tokenizer):
    last = [*ids(tokenizer, "Fine."), tokenizer.eos_token_id]
    prompt = prompt_ids(talk("How are you today?", "Fine."), tokenizer, len(last) + 2)
    assert prompt.tolist() == last
    with pytest.raises(UserError, match="shorten it"):
        prompt_ids(talk("How are you today?", "Fine."), tokenizer, len(last) - 1)


def test_the_report_counts_and_spells_out_only_the_first_dropped_records():
    dataset = Dataset("talks", "train", [talk("a", "b")] * 9, [f"t:{line}: empty" for line in range(1, 4)])
    encoded = EncodedSet([Encoded(np.arange(1200), np.arange(1200))], ["t:8: too long", "t:9: too long"], 1)
    assert report(dataset, encoded).split("\n") == [
        "talks train: 9 examples, 1 sequences, 1,200 tokens, 1,199 scored",
        "  1 shortened to fit (their beginnings are left out)",
        "  dropped t:1: empty",
        "  dropped t:2: empty",
        "  dropped t:3: empty",
        "  ... 2 more dropped, 5 in all",
    ]
