"""GGUF files read back: fields, and tensors dequantised."""

import shutil

import gguf
import numpy as np
import tiny
from places import ROOT

from gpt2_jittor.checkpoint.tokenizer import load_tokenizer, save_tokenizer

NANO = ROOT / "checkpoints" / "gpt2-nano"
ROWS = 8200  # of an embedding: nano's 8,192 tokens, and eight without one


def gpt2_folder(folder, seed: int, **settings):
    """A folder with a random model and nano's tokenizer, which has merges; returns the folder."""
    ids = {"bos_token_id": 0, "eos_token_id": 0}
    tiny.hf_model(seed, **({"vocab_size": ROWS, "n_inner": None} | ids | settings)).save_pretrained(folder)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copy(NANO / name, folder)
    return folder


def read(path) -> tuple[dict, dict[str, np.ndarray], dict[str, str]]:
    """Fields, tensors in float32 and their types, by GGUF's names."""
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    tensors = {each.name: gguf.dequantize(each.data, each.tensor_type) for each in reader.tensors}
    return fields, tensors, {each.name: each.tensor_type.name for each in reader.tensors}


def expected_tensors(state: dict) -> dict[str, np.ndarray]:
    """What a file must hold of a torch model's state, by the names that llama.cpp's GPT-2 reads; [out, in], copied."""
    parts = {"ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output"}
    parts |= {"ln_2": "ffn_norm", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}
    names = {"transformer.wte": "token_embd", "transformer.wpe": "position_embd"}
    names |= {"transformer.ln_f": "output_norm", "lm_head": "output"}
    names |= {f"transformer.h.{n}.{old}": f"blk.{n}.{new}" for n in range(9) for old, new in parts.items()}
    result = {}
    for key, value in state.items():
        module, _, kind = key.rpartition(".")
        turned = kind == "weight" and module.endswith(("c_attn", "c_proj", "c_fc"))
        result[f"{names[module]}.{kind}"] = (value.T if turned else value).float().numpy().copy()
    return result


def with_end_token(folder, base) -> None:
    """Puts the base's tokenizer into an adapter's folder, with one token more, which ends texts."""
    tokenizer = load_tokenizer(base)
    tokenizer.add_tokens(["<END>"], special_tokens=True)
    tokenizer.eos_token = "<END>"
    save_tokenizer(tokenizer, folder)
