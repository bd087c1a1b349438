"""A run's folder that came from elsewhere: nothing in it may lead out of it, for a run reads and writes there.

Models and adapters that are only read may be made of links, as those in the hub's cache are.
"""

import fnmatch
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from common.errors import UserError

# all that a run writes there or goes on from
PARTS = (".lock", "*.json", "*.jsonl", "*.yaml", "*.safetensors", "*.txt", "*.md", "*.png", "*.jinja", "checkpoint-*")

# what training has come to, and may be all that is left of a run: whoever begins anew there loses it
RESULTS = ("checkpoint-*", "adapter_model.safetensors", "model.safetensors")


def holds_run(folder: Path) -> bool:
    """Whether there is a run's result."""
    return any(any(folder.glob(pattern)) for pattern in RESULTS)


def check_own(folder: Path, parts: Sequence[str] = PARTS) -> None:
    """Raises UserError where a part of a run's folder, or of a checkpoint in it, lies elsewhere or is no file."""
    root = os.path.realpath(folder)
    for path in _within(folder):
        if not any(fnmatch.fnmatch(path.name, pattern) for pattern in parts):
            continue
        _check(path, root)
        if path.is_dir():
            for inner in _within(path):
                _check(inner, root)


def _within(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []  # a pattern of glob's would pass over broken links


def _check(path: Path, root: str) -> None:
    end = os.path.realpath(path)
    if path.is_symlink() and not Path(end).is_relative_to(root):
        raise UserError(f"{path} is a link out of the run's folder, to {end}: put a copy in its place, or remove it")
    if os.path.lexists(end) and not _is_ordinary(end):
        raise UserError(f"{path} is neither a file nor a folder, and no part of a run: remove it")


def _is_ordinary(path: str) -> bool:
    mode = os.lstat(path).st_mode  # of a loop of links: that of a link
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)
