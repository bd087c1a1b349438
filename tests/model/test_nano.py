"""The embedded model: small enough for a repository, the same model here and in transformers, and it knows English."""

import json

import numpy as np
import pytest
import torch
import transformers

from gpt2_jittor import GPT2LMHeadModel
from gpt2_jittor.checkpoint.locate import NANO
from gpt2_jittor.checkpoint.tokenizer import load_tokenizer

TEXT = "The history of the city begins in the early 19th century, when the first university was founded."


@pytest.fixture(scope="module")
def nano():
    return GPT2LMHeadModel.from_pretrained("nano")


def test_it_takes_12_megabytes_at_most():
    assert sum(path.stat().st_size for path in NANO.iterdir()) <= 12e6


def test_its_logits_are_those_of_transformers(nano):
    reference = transformers.AutoModelForCausalLM.from_pretrained(NANO, dtype=torch.float32).eval()
    ids = np.array([load_tokenizer(NANO)(TEXT)["input_ids"]])
    with torch.no_grad():
        expected = reference(torch.tensor(ids)).logits.numpy()
    np.testing.assert_allclose(nano(ids).numpy(), expected, atol=1e-4)  # the contract's bound


def test_its_tokens_are_those_of_transformers_and_come_back_as_text():
    expected = transformers.AutoTokenizer.from_pretrained(NANO)
    tokenizer = load_tokenizer(NANO)
    for text in (TEXT, "Ünïcödé 🙂 and  spaces\n\n<|endoftext|>"):
        ids = tokenizer(text)["input_ids"]
        assert ids == expected(text)["input_ids"]
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
    assert len(tokenizer) == json.loads((NANO / "config.json").read_text())["vocab_size"] == 8192


def test_it_finds_english_likelier_than_the_same_words_shuffled(nano):
    tokenizer = load_tokenizer(NANO)
    words = TEXT.split()
    shuffled = " ".join(np.random.default_rng(0).permutation(words))
    losses = [nano.loss(ids, ids).item() for ids in (np.array([tokenizer(t)["input_ids"]]) for t in (TEXT, shuffled))]
    assert losses[0] < losses[1] - 0.5
    assert losses[0] < 5.0  # a uniform guess among 8,192 tokens costs 9.01
