"""Logits of ours and of torch's, and how far apart the contract lets them be."""

import numpy as np
import tiny
import torch
import transformers

from datasets.encode import IGNORED
from gpt2_jittor import GPT2LMHeadModel
from gpt2_jittor.runtime.backend import jt

LOGITS = 1e-4  # absolute, the contract's for logits: float32 sums of the same terms in another order
GRADIENT = 1e-3  # relative, in the norm: the contract's for each gradient tensor


def pair(folder, seed: int, endless: bool = False, **settings):
    """One random model twice: transformers' own, and ours read from the folder that it saved.

    `endless`: the folder names no end token, which would stand in for one of None.
    """
    theirs = tiny.hf_model(seed, attn_implementation="eager", **settings)
    if endless:
        theirs.generation_config.eos_token_id = None
    theirs.save_pretrained(folder)
    return theirs, GPT2LMHeadModel.from_pretrained(folder)


def torch_logits(model, ids) -> np.ndarray:
    """Of a model in torch, PEFT's included."""
    with torch.no_grad():
        return model(input_ids=torch.tensor(ids)).logits.numpy()


def our_logits(model, ids) -> np.ndarray:
    """Of a model of this project."""
    with jt.no_grad():
        return model(ids).numpy()


def example_logits(kind, folder, ids) -> torch.Tensor:
    """What the model of `kind`, a class of transformers', says to one example alone; float64."""
    with torch.no_grad():
        return kind.from_pretrained(folder).eval()(torch.tensor(np.asarray(ids)[None]).long()).logits[0].double()


def example_losses(folder, item) -> np.ndarray:
    """Of each scored token of one example alone, by transformers; float64."""
    logits = example_logits(transformers.GPT2LMHeadModel, folder, item.input_ids)
    each = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(item.labels[1:]).long(), reduction="none")
    return each[torch.tensor(item.labels[1:] != IGNORED)].numpy()
