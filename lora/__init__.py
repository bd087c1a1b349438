"""LoRA for GPT-2: small trained matrices beside frozen weights, in PEFT's files.

lora.inject(model, lora.LoraConfig(r=8, lora_alpha=16, target_modules=["c_attn"]))
lora.save_adapter(model, directory); lora.load_adapter(model, directory)
lora.merge(model); lora.unmerge(model)
adapters = lora.Adapters(model); adapters.load(directory, "a"); adapters.use("a")

Names are loaded when first used: `python -m lora inspect` and wrong arguments need no compiled Jittor.
"""

import importlib

_HOMES = {
    "Adapters": "multi",
    "LoraConfig": "config",
    "count": "attach",
    "inject": "attach",
    "load_adapter": "adapter",
    "merge": "attach",
    "save_adapter": "adapter",
    "trainable": "attach",
    "unmerge": "attach",
}
__all__ = [  # noqa: F822 (they are loaded by __getattr__)
    "Adapters",
    "LoraConfig",
    "count",
    "inject",
    "load_adapter",
    "merge",
    "save_adapter",
    "trainable",
    "unmerge",
]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
