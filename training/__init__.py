"""The training loop and what belongs to it: arguments, updates, checkpoints, metrics, plots.

Trainer(model, train, validation, TrainingArguments(output_dir="runs/mine"), tokenizer).run()

Names are loaded when first used: wrong arguments need no compiled Jittor.
"""

import importlib

_HOMES = {"Trainer": "trainer", "TrainingArguments": "arguments"}
__all__ = ["Trainer", "TrainingArguments"]  # noqa: F822 (they are loaded by __getattr__)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
