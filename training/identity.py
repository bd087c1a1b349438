"""What a run is made of besides its arguments. With --resume it must be what it was, or the result would not be."""

import hashlib
import os
from pathlib import Path
from typing import Any

from common import processes
from common.errors import UserError
from datasets.encode import EncodedSet
from gpt2_jittor.fingerprint import digest
from gpt2_jittor.outline import open_model
from training.setup import Inputs

# what differs -> what to do about it
MENDED = {
    "data": "the data are others: give those of the run with --data-dir",
    "base": "the base model's weights or its config.json are others: give those of the run",
    "device": "it ran on {before}, this is {now}: numbers would round otherwise; give --device {before}",
    "precision": "it computed in {before}, this would in {now}: give --precision {before}",
    "threads": "it ran on {before} threads, this on {now}: sums would round otherwise; set OMP_NUM_THREADS={before}",
    "processes": "it ran in {before} processes, this in {now}: sums would round otherwise; use mpirun -np {before}",
    "trained": "it trained {before:,} numbers, this would train {now:,}: give the model and the code of the run",
}


def identify(inputs: Inputs, trained: int, device: str) -> dict[str, Any]:
    """The data's and the base's fingerprints, how many numbers are trained, on what, and in which precision."""
    data = hashlib.sha256()
    for split in (inputs.train, inputs.validation):
        _digest(split, data)
    return {
        "data": data.hexdigest(),
        "base": digest(open_model(inputs.directory)),
        "device": device,
        "precision": inputs.arguments.precision,
        "threads": _threads() if device == "cpu" else 0,  # of the kernels; on a GPU no sum depends on them
        "processes": processes.count(),
        "trained": trained,
    }


def check_same(before: dict[str, Any], now: dict[str, Any], checkpoint: Path) -> None:
    """Raises one UserError that names everything in which the run would not be the same."""
    changed = [
        words.format(before=before.get(name), now=now[name])
        for name, words in MENDED.items()
        if before.get(name) != now[name]
    ]
    if changed:
        raise UserError(f"{checkpoint} is not of this run: {'; '.join(changed)}")


def _threads() -> int:
    """How many OpenMP will start: what the environment says, else the cores that this process may use."""
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if given.isdecimal():
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _digest(split: EncodedSet, digest) -> None:
    for item in split.items:
        digest.update(f"{len(item.input_ids)} {item.label} ".encode())
        digest.update(item.input_ids.tobytes())
        digest.update(item.labels.tobytes())
