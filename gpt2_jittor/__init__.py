"""GPT-2 in Jittor.

Names are loaded when first used: `--help`, the doctor and wrong arguments need no compiled Jittor.
"""

import importlib

_HOMES = {
    "GPT2Config": "checkpoint.config",
    "GPT2ForSequenceClassification": "model.classifier",
    "GPT2LMHeadModel": "model.lm",
}
__all__ = ["GPT2Config", "GPT2ForSequenceClassification", "GPT2LMHeadModel"]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
