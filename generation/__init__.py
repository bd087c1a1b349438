"""Text and classes out of what was trained.

engine = generation.load("runs/mine")
engine.answer("Hello!")                       # text in, text out
for piece in engine.stream("Hello!"): ...     # as it comes

Names are loaded when first used: nothing here imports Jittor before a model is read.
"""

import importlib
from typing import Any

_HOMES = {"Engine": "engine", "GenerationOptions": "options", "load": "loading"}
__all__ = ["Engine", "GenerationOptions", "load"]  # noqa: F822 (they are loaded by __getattr__)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
