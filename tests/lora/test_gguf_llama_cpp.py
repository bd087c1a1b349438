"""GGUF files in llama.cpp itself, by llama-cpp-python: greedy text, logits and tokens beside ours and torch's."""

import json

import numpy as np
import pytest
import torch
import transformers
from adapters import make_adapter, run_lora
from commands import command, train
from gguf_files import NANO, gpt2_folder

from gpt2_jittor.checkpoint.tokenizer import load_tokenizer

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
pytestmark = pytest.mark.clients

# llama.cpp looks GELU up in a table of float16's values: 11 bits of what each of the MLPs adds
GELU_TABLE = 2e-2  # absolute, of logits whose size is some tens
PROMPT = "Hello! How are you today?"
TEXTS = ["It's 3 o'clock — we'VE  12345 \n\n reasons,\tdon't we?", "Ünïcode, 東京 🦙 и ещё", "<|endoftext|>", "  a  b "]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A run of nano that learnt to chat, and the three files of it: nano, merged, and the adapter alone."""
    root = tmp_path_factory.mktemp("world")
    options = ("--max-steps", 40, "--learning-rate", 0.003, "--lora-targets", "c_attn", "c_proj", "c_fc")
    trained = command(*train(root / "run", "nano", "sample", *options))
    assert trained.returncode == 0, trained.stderr
    with pytest.MonkeyPatch.context() as patch:
        run_lora(patch, "export", "--model", "nano", "--output", root / "nano.gguf")
        run_lora(patch, "export", "--adapter", root / "run", "--output", root / "merged.gguf")
        run_lora(patch, "export", "--adapter", root / "run", "--adapter-only", "--output", root / "lora.gguf")
    return root


def load(path, **options):
    return llama_cpp.Llama(str(path), n_ctx=0, n_threads=1, verbose=False, logits_all=True, **options)


def greedy(model, prompt: str) -> str:
    return model.create_completion(prompt, max_tokens=40, temperature=0)["choices"][0]["text"]


def ours(*options) -> str:
    result = command("generate.py", "--greedy", "--max-new-tokens", 40, "--json", "--prompt", PROMPT, *options)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)["answer"]


def logits_of(model, ids) -> np.ndarray:
    """Of each of the ids, [time, vocab]."""
    model.reset()
    model.eval(list(ids))
    return np.array(model.scores[: len(ids)])


def test_nanos_greedy_text_is_ours(world):
    assert greedy(load(world / "nano.gguf"), PROMPT) == ours("--model", "nano", "--mode", "text")


def test_a_chats_answer_is_ours_by_the_template_in_the_file(world):
    model = load(world / "merged.gguf")
    messages = [{"role": "user", "content": PROMPT}]
    answer = model.create_chat_completion(messages, max_tokens=40, temperature=0)["choices"][0]["message"]["content"]
    assert answer.strip() == ours("--adapter", world / "run").strip()


def test_the_base_with_the_adapter_says_what_the_merged_model_says(world):
    prompt = f"{PROMPT}<|endoftext|>"
    beside = greedy(load(world / "nano.gguf", lora_path=str(world / "lora.gguf")), prompt)
    assert beside == greedy(load(world / "merged.gguf"), prompt) != greedy(load(world / "nano.gguf"), prompt)


def test_texts_become_the_same_ids(world):
    model, tokenizer = load(world / "nano.gguf", vocab_only=True), load_tokenizer(NANO)
    for text in TEXTS:
        expected = tokenizer.encode(text, add_special_tokens=False)
        assert model.tokenize(text.encode(), add_bos=False, special=True) == expected, text
        assert model.detokenize(expected, special=True).decode() == text


MODELS = {
    "tied": {},
    "a head of its own, another width of the MLP": {"tie_word_embeddings": False, "n_inner": 58},
    "another epsilon, more positions": {"layer_norm_epsilon": 1e-2, "n_positions": 130},
}


@pytest.mark.parametrize("settings", MODELS.values(), ids=MODELS)
def test_logits_are_torchs(monkeypatch, tmp_path, seed, rng, settings):
    folder, path = gpt2_folder(tmp_path / "model", seed, **settings), tmp_path / "model.gguf"
    run_lora(monkeypatch, "export", "--model", folder, "--output", path)
    ids = rng.integers(1, 8192, 30)
    with torch.no_grad():
        expected = transformers.GPT2LMHeadModel.from_pretrained(folder)(torch.tensor(ids[None])).logits[0].numpy()
    np.testing.assert_allclose(logits_of(load(path), ids), expected, rtol=0, atol=GELU_TABLE)


def test_an_adapter_with_scalings_by_name_says_what_the_merged_model_says(monkeypatch, tmp_path, seed, rng):
    base, path = gpt2_folder(tmp_path / "base", seed), {name: tmp_path / f"{name}.gguf" for name in "abm"}
    scalings = {"use_rslora": True, "rank_pattern": {"c_fc": 2}, "alpha_pattern": {"h.1.attn.c_attn": 3}}
    adapter = make_adapter(base, tmp_path / "run", seed, {"r": 4, "target_modules": "all-linear", **scalings})
    run_lora(monkeypatch, "export", "--model", base, "--output", path["b"])
    run_lora(monkeypatch, "export", "--adapter", adapter, "--output", path["m"])
    run_lora(monkeypatch, "export", "--adapter", adapter, "--adapter-only", "--output", path["a"])
    ids = rng.integers(1, 8192, 30)
    merged, plain = logits_of(load(path["m"]), ids), logits_of(load(path["b"]), ids)
    beside = logits_of(load(path["b"], lora_path=str(path["a"])), ids)
    assert np.abs(plain - merged).max() > 10 * GELU_TABLE
    np.testing.assert_allclose(beside, merged, rtol=0, atol=GELU_TABLE)
