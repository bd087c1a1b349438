"""Copies of a model, as people keep them, and what makes another model of one."""

import json

import safetensors.torch
import torch

from gpt2_jittor.checkpoint.stored import EMBEDDING, HEAD


def padded(state: dict, rows: int = 64) -> dict:
    """The model with more rows than tokens, the mean of the others, as those have that round a vocabulary up."""
    more = {}
    for name in (EMBEDDING, HEAD):
        if name in state:
            table = state[name]
            more[name] = torch.cat([table, table.float().mean(0, keepdim=True).expand(rows, -1).to(table.dtype)])
    return state | more


def cast(*dtypes, dimensions=(1, 2)):
    """Rounds the tensors of so many dimensions to one type after another."""

    def change(state: dict) -> dict:
        for dtype in dtypes:
            state = {name: value.to(dtype) if value.ndim in dimensions else value for name, value in state.items()}
        return state

    return change


# name: what is made of the tensors
COPIES = {
    "float32": cast(),
    "float64": cast(torch.float64),
    "float16": cast(torch.float16),
    "bfloat16": cast(torch.bfloat16),
    "float16, then bfloat16": cast(torch.float16, torch.bfloat16),
    "bfloat16, then float16": cast(torch.bfloat16, torch.float16),
    "float16, then float32": cast(torch.float16, torch.float32),
    "bfloat16, then float32": cast(torch.bfloat16, torch.float32),
    "matrices in float16, then float32": cast(torch.float16, torch.float32, dimensions=[2]),
    "matrices in bfloat16, then float32": cast(torch.bfloat16, torch.float32, dimensions=[2]),
    "bfloat16 but for norms": lambda state: {n: v if ".ln_" in n else v.bfloat16() for n, v in state.items()},
    "padded": padded,
    "padded with zeros": lambda state: state | {EMBEDDING: torch.nn.functional.pad(state[EMBEDDING], (0, 0, 0, 9))},
    "padded, in bfloat16": lambda state: cast(torch.bfloat16)(padded(state)),
    "padded, in float16": lambda state: padded(cast(torch.float16)(state), 1),
    "with the embedding as a head": lambda state: state | {HEAD: state[EMBEDDING].clone()},
}
# entries of config.json that change what is computed
OTHER_VALUES = {
    "activation_function": "relu",
    "layer_norm_epsilon": 1e-6,
    "resid_pdrop": 0.3,
    "embd_pdrop": 0.3,
    "attn_pdrop": 0.3,
    "scale_attn_weights": False,
    "scale_attn_by_inverse_layer_idx": True,
    "n_head": 4,
}


def folder_of(folder, state: dict, config: dict):
    """A model's folder; the vocabulary is as large as the table."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.contiguous() for name, value in state.items()}
    safetensors.torch.save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": len(state[EMBEDDING])}))
    return folder
