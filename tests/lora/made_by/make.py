"""Makes the adapters beside this file, each by the version of PEFT whose name its folder has, and the logits with it.

pip install --no-deps --target /tmp/peft peft==0.7.1
PYTHONPATH=/tmp/peft python tests/lora/made_by/make.py
"""

import shutil
import sys
from pathlib import Path

import numpy as np
import peft
import torch
import transformers

HERE = Path(__file__).parent
SIZES = {"vocab_size": 23, "n_positions": 16, "n_embd": 12, "n_layer": 2, "n_head": 2, "n_inner": 20}
ALL = ["c_attn", "c_proj", "c_fc"]
SETTINGS = {  # by the version that got what they use
    "0.4": {
        "plain": {"target_modules": ALL},
        "biases": {"target_modules": ["c_attn"], "bias": "lora_only", "modules_to_save": ["lm_head"]},
        "blocks": {"target_modules": ["c_fc"], "layers_to_transform": [1], "layers_pattern": "h"},
        "embedding": {"target_modules": ["wte", "c_proj"]},
    },
    "0.7": {"patterns": {"target_modules": ALL, "rank_pattern": {"c_attn": 5}, "alpha_pattern": {"mlp.c_proj": 9}}},
    "0.10": {
        "dora": {"target_modules": ALL, "use_dora": True},
        "pissa": {"target_modules": ["c_attn"], "init_lora_weights": "pissa"},
        "rslora": {"target_modules": ALL, "use_rslora": True, "bias": "all"},
    },
    "0.13": {"everywhere": {"target_modules": ["c_attn", "lm_head", "wte"], "use_dora": True}},
    "0.21": {
        "without": {"target_modules": ALL, "exclude_modules": ["h.0.attn.c_attn"], "lora_bias": True},
        "tokens": {"target_modules": ["c_fc"], "trainable_token_indices": [3, 5]},
    },
}


def number(version: str) -> tuple[int, ...]:
    """0.10 comes after 0.7."""
    return tuple(int(part) for part in version.split(".")[:2])


def base() -> transformers.GPT2LMHeadModel:
    """The model in `base`, which is made where it is missing."""
    if not (HERE / "base").is_dir():
        torch.manual_seed(0)
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**SIZES, bos_token_id=0, eos_token_id=0))
        moved(model).save_pretrained(HERE / "base")
    return transformers.GPT2LMHeadModel.from_pretrained(HERE / "base").eval()


def moved(model):
    """Everything that is trained, moved at random."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.2 * torch.randn_like(parameter)
    return model.eval()


def main() -> None:
    """Makes what the version that is imported can, but for what a later one stands for already."""
    here = ".".join(peft.__version__.split(".")[:2])
    ids = torch.tensor(np.random.default_rng(0).integers(0, SIZES["vocab_size"], (2, 9)))
    for since, several in SETTINGS.items():
        for name, settings in several.items() if number(since) <= number(here) else ():
            folder = HERE / here / name
            try:
                make(folder, settings, ids)
            except (
                RuntimeError
            ) as error:  # 0.10's DoRA and PiSSA, and 0.13's on a head, do not know GPT-2's orientation
                shutil.rmtree(folder, ignore_errors=True)
                print(f"{here} {name}: PEFT fails: {str(error)[:80]}", file=sys.stderr)


def make(folder: Path, settings: dict, ids: torch.Tensor) -> None:
    """An adapter, and what the model says with it once it is read again. Raises what PEFT raises."""
    torch.manual_seed(1)
    config = peft.LoraConfig(r=3, lora_alpha=7, fan_in_fan_out=True, task_type="CAUSAL_LM", **settings)
    moved(peft.get_peft_model(base(), config)).save_pretrained(folder)
    again = peft.PeftModel.from_pretrained(base(), folder).eval()
    with torch.no_grad():
        logits = again(input_ids=ids).logits.numpy()
    np.savez_compressed(folder / "expected.npz", ids=ids.numpy(), logits=logits)
    (folder / "README.md").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
