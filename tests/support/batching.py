"""Models of several adapters behind a batcher, and what PEFT says of each."""

import numpy as np
import peft
import tiny
import torch
import transformers
from adapters import make_adapter

from generation.sampling import make_sampler
from serving.adapters import ServedModels
from serving.batcher import Batcher
from serving.models import Models
from serving.work import Continuation

VOCAB, POSITIONS = tiny.SIZES["vocab_size"], tiny.SIZES["n_positions"]
ADAPTERS = {
    "one": {"r": 4, "lora_alpha": 8, "target_modules": ["c_attn"]},
    "two": {"r": 9, "lora_alpha": 3, "target_modules": ["c_attn", "c_proj", "c_fc"], "use_rslora": True},
    "dora": {"r": 2, "lora_alpha": 4, "target_modules": ["c_attn", "c_fc"], "use_dora": True},
}


def models_of(base, folders, weights: str = "fp32", rows: int = 8, cache_tokens: int = 200) -> Models:
    given = ServedModels(
        model=str(base), weights=weights, adapter=tuple(f"{name}={at}" for name, at in folders.items())
    )
    return Models(given.sources(), given, rows, cache_tokens)


def made(base, root) -> dict:
    """The adapters' folders by name, by PEFT."""
    return {name: make_adapter(base, root / name, seed, given) for seed, (name, given) in enumerate(ADAPTERS.items())}


def theirs_of(base, folders) -> dict:
    """PEFT's model of each name."""
    models = {"base": transformers.GPT2LMHeadModel.from_pretrained(base).eval()}
    for name, folder in folders.items():
        model = transformers.GPT2LMHeadModel.from_pretrained(base)
        models[name] = peft.PeftModel.from_pretrained(model, folder).eval()
    return models


def finish(batcher: Batcher, turns: int = 1000) -> None:
    while batcher._busy() and (turns := turns - 1):
        batcher.turn()
    assert turns


def work_of(model: str, prompt, tokens: int = 12, **more) -> Continuation:
    given = {"sample": make_sampler(greedy=True), "end_ids": frozenset(), "top": None} | more
    return Continuation(model, np.asarray(prompt), tokens, **given)


def greedy(model, prompt, tokens: int) -> list[int]:
    """What transformers' model says most likely, without a cache."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(tokens):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def prompts(rng, count: int) -> list[np.ndarray]:
    return [rng.integers(0, VOCAB, rng.integers(1, 50)) for _ in range(count)]
