"""Models with trained tokens (PEFT's trainable_token_indices), in PEFT and here."""

import peft
import pytest
import tiny
import torch
import transformers
from adapters import train_at_random

import lora
from gpt2_jittor import GPT2LMHeadModel

TOKENS = [300, 7, 150, 0]
ROWS = "transformer.wte.token_adapter.trainable_tokens_delta"
tied_and_untied = pytest.mark.parametrize("base", [True, False], ids=["tied", "untied"], indirect=True)


def plain_torch(base, rows: int | None = None):
    """transformers' model, with a vocabulary of `rows`."""
    model = transformers.GPT2LMHeadModel.from_pretrained(base)
    if rows:
        model.resize_token_embeddings(rows)
    return model.eval()


def plain_ours(base, rows: int | None = None):
    """Our model, with a vocabulary of `rows`."""
    model = GPT2LMHeadModel.from_pretrained(base)
    if rows:
        model.resize_token_embeddings(rows)
    return model


def peft_model(base, seed: int, tokens, rows: int | None = None):
    """PEFT's model, everything trained moved at random."""
    config = peft.LoraConfig(
        fan_in_fan_out=True, task_type="CAUSAL_LM", r=3, target_modules=["c_attn"], trainable_token_indices=tokens
    )
    model = peft.get_peft_model(plain_torch(base, rows), config)
    torch.manual_seed(seed)
    return tiny.moved(model)


def our_model(base, rng, tokens=TOKENS, rows: int | None = None, **settings):
    """Ours, everything trained moved at random."""
    config = lora.LoraConfig(r=3, target_modules=["c_attn"], trainable_token_indices=tokens, **settings)
    return train_at_random(lora.inject(plain_ours(base, rows), config), rng)
