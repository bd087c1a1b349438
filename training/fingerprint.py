"""What a run is recognised by. With --resume it must be what it was, or the result would not be.

`arguments.yaml` can be edited, and so the arguments that decide the result stand here, too.
"""

import dataclasses
import hashlib
import math
import os
from pathlib import Path
from typing import Any

from common import processes
from common.errors import ParameterError, UserError, joined
from datasets.encode import EncodedSet
from gpt2_jittor.runtime import cpu
from training.arguments import RESUMABLE
from training.plan import RunPlan

# what differs -> what to do about it
MENDED = {
    "data": "the data are others: give those of the run with {data_dir} or {data}",
    "base": "the base model's weights or its config.json are others: give those of the run",
    "device": "it ran on {before}, this is {now}: numbers would round otherwise; give {device} {before}",
    "precision": "it computed in {before}, this would in {now}: give {precision} {before}",
    "threads": "it ran on {before} threads, this on {now}: sums would round otherwise; set OMP_NUM_THREADS={before}",
    "processes": "it ran in {before} processes, this in {now}: sums would round otherwise; use mpirun -np {before}",
    "trained": "it trained {before:,} numbers, this would train {now:,}: give the model and the code of the run",
}
INSTRUCTIONS = "instructions"  # what may differ, and is only said: another machine must be able to go on
# what compilers and oneDNN choose their kernels by
SIMD = ("fma", "avx", "avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "asimd", "sve", "avx_vnni")


def fingerprint(plan: RunPlan, base: str | None, trained: int, device: str) -> dict[str, Any]:
    """What must not change in a run: its data, its base, how many numbers are trained, on what, in which precision;
    and the arguments that decide the result, but for where things lie.

    `base`: the `digest` of the checkpoint that the model began as, None for a model that began with random weights.
    """
    given, data = plan.arguments, hashlib.sha256()
    for split in (plan.train, plan.whole_validation):
        _digest(split, data)
    return {
        "data": data.hexdigest(),
        "base": base,
        "device": device,
        "precision": given.precision,
        "threads": _threads() if device == "cpu" else 0,  # of the kernels; on a GPU no sum depends on them
        "processes": processes.count(),
        "trained": trained,
        "arguments": {
            name: value
            for name, value in dataclasses.asdict(given).items()
            if name not in RESUMABLE | {"precision", "model"}  # the one stands above; what a base is, not where it lies
        },
        "steps": plan.total_steps,
        "patience": given.patience,
        INSTRUCTIONS: instructions() if device == "cpu" else "",
    }


def check_same(before: dict[str, Any], now: dict[str, Any], checkpoint: Path) -> None:
    """Raises one UserError that names everything in which the run would not be the same."""
    if "arguments" not in before:
        raise UserError(
            f"{checkpoint} was written by an earlier version of this program, which told bases apart and validated "
            "otherwise: go on with that version, or start anew in another folder"
        )
    changed = [
        ParameterError(words, before=before.get(name), now=now[name])
        for name, words in MENDED.items()
        if before.get(name) != now[name]
    ]
    changed += _other_arguments(before, now)
    if changed:
        raise ParameterError(
            "{checkpoint} is not of this run: {changed}", checkpoint=checkpoint, changed=joined(changed)
        )


def _other_arguments(before: dict[str, Any], now: dict[str, Any]) -> list[UserError]:
    """What differs between the arguments of a checkpoint and those of now: what was typed was compared already."""
    old, changed = before["arguments"], []
    for name, value in now["arguments"].items():
        if name in old and old[name] != value:
            template = f"{{{name}}} was {{before}} and is {{now}} now"
            changed.append(ParameterError(template, before=_shown(old[name]), now=_shown(value)))
    if now["steps"] < before.get("steps", 0):
        fewer = f"it was to make {before['steps']:,} steps and would make {now['steps']:,} now, fewer"
        changed.append(UserError(fewer))
    if (now["patience"] or math.inf) < (before.get("patience") or math.inf) and "patience" in before:
        template = "{patience} was {before} and is {now} now, less"
        changed.append(ParameterError(template, before=_shown(before["patience"]), now=now["patience"]))
    if changed:
        changed[-1] = ParameterError("{}: put arguments.yaml back as it was", changed[-1])
    return changed


def notes(before: dict[str, Any], now: dict[str, Any], checkpoint: Path) -> list[str]:
    """What someone who goes on from a checkpoint should know, a line each."""
    said = []
    if before.get(INSTRUCTIONS, now[INSTRUCTIONS]) != now[INSTRUCTIONS]:
        said.append(
            f"note: {checkpoint} was made on {before[INSTRUCTIONS]}, this is {now[INSTRUCTIONS]}: sums may round "
            "otherwise, and the result differ in its last digits from that of one machine"
        )
    return said


def instructions() -> str:
    """The CPU in words, with the instructions that products are computed with, as far as they decide how they round."""
    name, flags = cpu.read()
    caps = [f"{variable.partition('_')[2]} {value}" for variable, value in cpu.caps()]
    return ", ".join([f"{name} ({' '.join(flag for flag in SIMD if flag in flags)})", *caps])


def _shown(value: Any) -> str:
    return "unset" if value is None else " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _threads() -> int:
    """How many OpenMP will start: what the environment says, else the cores that this process may use."""
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if given.isdecimal():
        return int(given)
    return processes.cores()


def _digest(split: EncodedSet, digest) -> None:
    for item in split.items:
        digest.update(f"{len(item.input_ids)} {item.label} ".encode())
        digest.update(item.input_ids.tobytes())
        digest.update(item.labels.tobytes())
