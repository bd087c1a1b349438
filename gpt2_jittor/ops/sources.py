"""The text of the CPU's kernels, for what compiles it."""

import functools
from pathlib import Path

KERNELS = Path(__file__).parent / "kernels"


@functools.cache
def header(kernels: tuple[str, ...]) -> str:
    """The texts of `kernels/<name>.h`, in this order: each stands behind those that it needs.

    The text itself, not an #include of it: Jittor then recompiles when the text changes.
    """
    return "\n".join((KERNELS / f"{name}.h").read_text(encoding="utf-8") for name in kernels)
