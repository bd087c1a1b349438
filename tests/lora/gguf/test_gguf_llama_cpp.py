"""GGUF files in llama.cpp itself: greedy text, logits and tokens beside ours and torch's.

By xllamacpp, llama.cpp's server as a library: it has wheels, where llama-cpp-python has to be compiled.
"""

import importlib.util
import json

import numpy as np
import pytest
import torch
import transformers
from adapters import make_adapter, run_lora
from commands import command, train
from gguf_files import NANO, ROWS, gpt2_folder
from llama_server import LlamaServer

from gpt2_jittor.checkpoint.tokenizer import load_tokenizer

pytestmark = [
    pytest.mark.clients,
    pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="xllamacpp is not installed"),
]

# llama.cpp looks GELU up in a table of float16's values, and keeps keys and values in float16: 11 bits
HALVES = 2e-2  # absolute, of logits whose size is some tens
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


def ours(*options) -> str:
    result = command("generate.py", "--greedy", "--max-new-tokens", 40, "--json", "--prompt", PROMPT, *options)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)["answer"]


def log_probabilities(ids, *files) -> np.ndarray:
    """Of each token of the vocabulary as the next, [vocab], by llama.cpp."""
    with LlamaServer(*files) as server:
        return np.array(server.log_probabilities(ids.tolist(), ROWS))


def test_nanos_greedy_text_and_its_ids_are_ours(world):
    tokenizer = load_tokenizer(NANO)
    with LlamaServer(world / "nano.gguf") as server:
        assert server.greedy(PROMPT) == ours("--model", "nano", "--mode", "text")
        for text in TEXTS:
            found = server.asked("tokenize", content=text, add_special=True, parse_special=True)["tokens"]
            assert found == tokenizer.encode(text, add_special_tokens=False), text


def test_an_adapters_answer_is_ours_merged_and_beside_its_base(world):
    expected = ours("--adapter", world / "run")
    with LlamaServer(world / "merged.gguf") as server:
        assert server.chat(PROMPT) == expected
    with LlamaServer(world / "nano.gguf", world / "lora.gguf") as server:
        assert server.greedy(f"{PROMPT}<|endoftext|>") == expected


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
        logits = transformers.GPT2LMHeadModel.from_pretrained(folder)(torch.tensor(ids[None])).logits[0, -1]
    expected = torch.log_softmax(logits, 0).numpy()
    np.testing.assert_allclose(log_probabilities(ids, path), expected, rtol=0, atol=HALVES)


def test_an_adapter_with_scalings_by_name_says_what_the_merged_model_says(monkeypatch, tmp_path, seed, rng):
    base, path = gpt2_folder(tmp_path / "base", seed), {name: tmp_path / f"{name}.gguf" for name in "abm"}
    scalings = {"use_rslora": True, "rank_pattern": {"c_fc": 2}, "alpha_pattern": {"h.1.attn.c_attn": 3}}
    adapter = make_adapter(base, tmp_path / "run", seed, {"r": 4, "target_modules": "all-linear", **scalings})
    run_lora(monkeypatch, "export", "--model", base, "--output", path["b"])
    run_lora(monkeypatch, "export", "--adapter", adapter, "--output", path["m"])
    run_lora(monkeypatch, "export", "--adapter", adapter, "--adapter-only", "--output", path["a"])
    ids = rng.integers(1, 8192, 30)
    merged, plain = (log_probabilities(ids, path[name]) for name in "mb")
    beside = log_probabilities(ids, path["b"], path["a"])
    assert np.abs(plain - merged).max() > 10 * HALVES
    np.testing.assert_allclose(beside, merged, rtol=0, atol=HALVES)
