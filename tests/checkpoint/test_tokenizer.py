"""The tokenizer's files, its end token, and text streamed token by token."""

import json
import random
import shutil

import pytest
from places import SHARED
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from common.errors import UserError
from gpt2_jittor.checkpoint.config import GPT2Config
from gpt2_jittor.checkpoint.tokenizer import TextStream, add_tokens, check_sizes, load_tokenizer, save_tokenizer

GPT2_FILES = SHARED / "gpt2-tokenizer"
needs_gpt2 = pytest.mark.skipif(not (GPT2_FILES / "vocab.json").is_file(), reason="GPT-2's vocabulary is not here")


@pytest.fixture(scope="module")
def gpt2_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt2")
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(GPT2_FILES / name, folder)
    return folder


@pytest.fixture(scope="module")
def gpt2(gpt2_folder):
    return load_tokenizer(gpt2_folder)


def byte_tokenizer(folder, end="<|endoftext|>", **settings):
    """A byte-level tokenizer without merges: 256 bytes and an end token, as a bare tokenizer.json."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate([*alphabet, end])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([end])
    tokenizer.save(str(folder / "tokenizer.json"))
    if settings:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@needs_gpt2
def test_vocab_and_merges_alone_make_gpt2s_tokenizer(gpt2):
    assert gpt2.encode("Hello world") == [15496, 995]
    assert gpt2.encode("a<|endoftext|>") == [64, 50256]
    assert len(gpt2) == 50257
    assert gpt2.eos_token_id == gpt2.pad_token_id == 50256


@needs_gpt2
def test_a_saved_tokenizer_is_read_by_us_and_by_transformers(gpt2, tmp_path):
    save_tokenizer(gpt2, tmp_path)
    text = "Ünïcode, 你好 and  two spaces.\n"
    for again in (load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)):
        assert again.encode(text) == gpt2.encode(text)
        assert again.decode(again.encode(text)) == text
        assert again.eos_token_id == 50256


@needs_gpt2
def test_a_saved_tokenizer_has_a_class_that_older_transformers_know(gpt2, tmp_path):
    save_tokenizer(gpt2, tmp_path)
    save_tokenizer(load_tokenizer(tmp_path), tmp_path / "again")
    saved = json.loads((tmp_path / "again" / "tokenizer_config.json").read_text())
    assert saved["tokenizer_class"] == "GPT2Tokenizer"


def test_tokenizer_json_alone_is_enough(tmp_path):
    tokenizer = load_tokenizer(byte_tokenizer(tmp_path))
    assert len(tokenizer) == 257
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == 256
    assert tokenizer.decode(tokenizer.encode("né 😀")) == "né 😀"


def test_the_end_and_padding_tokens_of_the_folder_are_kept(tmp_path):
    tokenizer = load_tokenizer(byte_tokenizer(tmp_path, "</s>", eos_token="</s>", pad_token="!"))
    assert (tokenizer.eos_token, tokenizer.pad_token, len(tokenizer)) == ("</s>", "!", 257)


def word_tokenizer(folder):
    """Two words, an unknown one and an end token, joined by spaces."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"[UNK]": 0, "good": 1, "day": 2, "<|endoftext|>": 3}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.add_special_tokens(["<|endoftext|>"])
    words.save(str(folder / "tokenizer.json"))
    return folder


def test_a_tokenizer_of_another_kind_is_taken_as_it_is(tmp_path):
    tokenizer = load_tokenizer(word_tokenizer(tmp_path))
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    assert tokenizer.encode("good day") == [1, 2]
    assert tokenizer.eos_token_id == 3


def test_a_tokenizer_without_an_end_token_is_refused(tmp_path):
    with pytest.raises(UserError, match="no end token"):
        load_tokenizer(byte_tokenizer(tmp_path, "</s>"))


@pytest.mark.parametrize("present", [[], ["vocab.json"], ["merges.txt"]])
def test_missing_files_are_named(tmp_path, present):
    for name in present:
        (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match="has no tokenizer: tokenizer.json, or vocab.json and merges.txt"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("content", ["{bad", "{}", '{"model": 3}', '{"version": "1.0", "model": {"type": "BPE"}}'])
def test_a_damaged_tokenizer_is_a_one_line_error(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=str(tmp_path)):
        load_tokenizer(tmp_path)


def test_a_vocabulary_larger_than_the_models_is_refused(tmp_path):
    tokenizer = load_tokenizer(byte_tokenizer(tmp_path))
    check_sizes(tokenizer, GPT2Config(vocab_size=257))
    with pytest.raises(UserError, match="257 tokens .* 256"):
        check_sizes(tokenizer, GPT2Config(vocab_size=256))


def test_streamed_text_never_shows_half_a_character(tmp_path):
    tokenizer = load_tokenizer(byte_tokenizer(tmp_path))  # one byte a token: every character is split
    stream = TextStream(tokenizer)
    pieces = [stream.push(token_id) for token_id in tokenizer.encode("a😀你b")]
    assert pieces == ["a", "", "", "", "😀", "", "", "你", "b"]
    assert stream.flush() == ""


def test_an_unfinished_character_comes_with_the_flush(tmp_path):
    tokenizer = load_tokenizer(byte_tokenizer(tmp_path))
    stream = TextStream(tokenizer)
    ids = tokenizer.encode("😀")[:2]
    assert [stream.push(token_id) for token_id in ids] == ["", ""]
    assert stream.flush() == tokenizer.decode(ids) == "\ufffd"


@needs_gpt2
@pytest.mark.parametrize("text", ["naïve 😀 你好世界 🏳️‍🌈!", "\ufffd real", " 's  n't .", "a<|endoftext|>b"])
def test_streamed_text_is_the_decoded_text(gpt2, text):
    stream, ids = TextStream(gpt2), gpt2.encode(text)
    streamed = "".join(map(stream.push, ids)) + stream.flush()
    assert streamed == gpt2.decode(ids, skip_special_tokens=True) == text.replace("<|endoftext|>", "")


@needs_gpt2
@pytest.mark.parametrize("below", [256, 50257])  # the first 256 ids are single bytes: mostly invalid UTF-8
def test_streamed_text_is_the_decoded_text_even_if_it_is_noise(gpt2, below):
    random.seed(below)
    for _ in range(50):
        ids = [random.choice((random.randrange(below), 50256)) for _ in range(40)]
        stream = TextStream(gpt2)
        assert "".join(map(stream.push, ids)) + stream.flush() == gpt2.decode(ids, skip_special_tokens=True)


def test_special_tokens_are_no_text_even_inside_of_a_character(tmp_path):
    tokenizer = load_tokenizer(byte_tokenizer(tmp_path))
    user, end = add_tokens(tokenizer, ["<USER>", "<END>"])
    smile = tokenizer.encode("😀")
    stream = TextStream(tokenizer)
    pieces = [stream.push(i) for i in (user, *smile[:2], end, *smile[2:], 256, user, *tokenizer.encode("a"), end)]
    assert pieces == ["", "", "", "", "", "😀", "", "", "a", ""] and stream.flush() == ""


def test_text_goes_on_behind_a_special_token_as_if_it_were_not_there(tmp_path):
    stream = TextStream(load_tokenizer(word_tokenizer(tmp_path)))  # words, with a space where they meet
    assert [stream.push(token_id) for token_id in (3, 1, 3, 3, 2, 1, 3)] == ["", "good", "", "", " day", " good", ""]
    assert stream.flush() == ""


def test_tokens_are_added_that_no_text_can_spell(tmp_path):
    tokenizer = load_tokenizer(byte_tokenizer(tmp_path))
    assert add_tokens(tokenizer, ["<USER>", "<END>"]) == [257, 258]
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, len(tokenizer)) == (258, 256, 259)
    assert tokenizer.decode([257, *tokenizer.encode("hi"), 258], skip_special_tokens=True) == "hi"
    assert add_tokens(tokenizer, ()) == [] and len(tokenizer) == 259


def test_a_vocabulary_without_a_turns_end_keeps_its_end_token(tmp_path):
    tokenizer = load_tokenizer(byte_tokenizer(tmp_path))
    assert add_tokens(tokenizer, ["<USER>"]) == [257] and tokenizer.eos_token_id == 256


@pytest.mark.parametrize(
    ("tokens", "named"),
    [
        ([""], "''"),
        (["<USER>", " \n"], repr(" \n")),
        (["<USER>", "<END>", "<USER>"], "'<USER>'"),
        (["<|endoftext|>"], "'<|endoftext|>'"),
        (["<USER>", "a"], "'a'"),
    ],
)
def test_tokens_that_are_none_or_known_are_refused_and_none_is_added(tmp_path, tokens, named):
    tokenizer = load_tokenizer(byte_tokenizer(tmp_path))
    with pytest.raises(UserError, match="added_tokens must be new, each named once, not ") as caught:
        add_tokens(tokenizer, tokens)
    assert f"not {named}:" in str(caught.value)
    assert len(tokenizer) == 257 and tokenizer.eos_token_id == 256
