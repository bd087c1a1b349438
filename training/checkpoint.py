"""What `--resume` needs: the trained parameters, the optimiser's moments and the position, as whole folders.

A manifest holds each file's size and checksum, so that a cut or a flipped bit is found.
"""

import dataclasses
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import hexdigest, json_text, read_json, remove_folder, replacing_folder, write_json
from gpt2_jittor.checkpoint.weights import read_safetensors, read_tensors
from gpt2_jittor.checkpoint.write import write_safetensors
from gpt2_jittor.model.pretrained import GPT2PreTrained
from lora.adapter import load_adapter, save_adapter
from training.fingerprint import check_same, notes
from training.optimizer import AdamW

KEPT = 2  # checkpoints of a run, the newest ones; the best parameters lie in the run's own folder
PROGRESS, MOMENTS, FINGERPRINT = "progress.json", "optimizer.safetensors", "identity.json"
MANIFEST = "manifest.json"
SETTLED = ("learning_rate", "warmup_steps", "eval_every", "eval_limit")  # by `training/plan.py`, and kept at a resume


@dataclass
class Progress:
    """Where a run stands. `step` counts updates; a step's data, masks and rate follow from it and the seed."""

    step: int = 0
    validated: int = -1  # the last step at which validation was done
    best_loss: float = float("inf")
    best_step: int = 0
    first_loss: float = float("nan")
    worse_validations: int = 0  # in a row
    first_accuracy: float | None = None  # of a classifier, where the losses were measured
    best_accuracy: float | None = None
    skipped: int = 0  # updates that were not made, their loss or gradients not being finite
    loss_scale: float | None = None  # of an fp16 run: what the next loss is multiplied by (`training/loss_scale.py`)
    scaled_updates: int = 0  # made since that changed


def save(
    run_dir: Path, model: GPT2PreTrained, optimizer: AdamW, progress: Progress, fingerprint: dict[str, Any]
) -> Path:
    """Writes checkpoint-<step>, visible only when complete, and removes all but the newest KEPT."""
    target = run_dir / f"checkpoint-{progress.step}"
    with replacing_folder(target) as temporary:
        save_trained(model, temporary)
        write_safetensors(temporary / MOMENTS, optimizer.state())
        write_json(temporary / PROGRESS, dataclasses.asdict(progress))
        write_json(temporary / FINGERPRINT, fingerprint)
        write_manifest(temporary)
    for old in checkpoints(run_dir)[:-KEPT]:
        remove_folder(old)
    return target


def save_trained(model: GPT2PreTrained, directory: Path) -> None:
    """The adapter where there is one, else the whole model."""
    if model.adapter_config is None:
        model.save_pretrained(directory)
    else:
        save_adapter(model, directory)


def load_trained(model: GPT2PreTrained, directory: Path) -> None:
    """Puts back what `save_trained` wrote. Raises UserError where it does not fit."""
    if model.adapter_config is not None:
        load_adapter(model, directory, trained=True)
        return
    shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
    for name, array in read_tensors(directory, shapes):
        model.parameter(name).assign(array)


def load(directory: Path, model: GPT2PreTrained, optimizer: AdamW) -> Progress:
    """Puts parameters and moments back and returns the position. Raises UserError where they do not fit."""
    try:
        progress = Progress(**read_json(directory / PROGRESS))
        moments = read_safetensors(directory / MOMENTS)
        load_trained(model, directory)
        optimizer.load_state(moments, progress.step - progress.skipped)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{directory} does not belong to this run ({error}); remove it to start anew") from error
    return progress


def settled(directory: Path) -> dict[str, Any]:
    """The arguments of the run that wrote `directory` that its data have settled, as far as they stand there."""
    arguments = read_json(directory / FINGERPRINT).get("arguments", {})
    return {name: arguments[name] for name in SETTLED if name in arguments}


def check_fingerprint(directory: Path, fingerprint: dict[str, Any]) -> list[str]:
    """Raises UserError where `directory` was written by another run than the one with this fingerprint.

    Returns what is to be said of it, a line each.
    """
    before = read_json(directory / FINGERPRINT)
    check_same(before, fingerprint, directory)
    return notes(before, fingerprint, directory)


def checkpoints(run_dir: Path) -> list[Path]:
    """A run's checkpoints, oldest first."""
    found = [path for path in run_dir.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")))


def newest(run_dir: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that is whole, None where none was written yet; and what is wrong with newer ones.

    Raises UserError where there are some and none is whole.
    """
    damaged = []
    for path in reversed(checkpoints(run_dir)):
        try:
            check_manifest(path)
            return path, damaged
        except UserError as error:
            damaged.append(str(error))
    if damaged:
        raise UserError(f"{run_dir} holds no whole checkpoint: {'; '.join(damaged)}; start anew in another folder")
    return None, []


def write_manifest(directory: Path) -> None:
    """Describes the files that are in `directory` now. Raises UserError where it cannot be written."""
    write_json(directory / MANIFEST, {path.name: _describe(path) for path in sorted(directory.iterdir())})


def check_manifest(directory: Path) -> None:
    """Raises UserError where a file is missing, has another size or another content than when it was written."""
    path = directory / MANIFEST
    described = read_json(path)
    try:
        is_ours = path.read_text(encoding="utf-8") == json_text(described)
    except ValueError:  # half a character, which JSON can spell
        is_ours = False
    if not is_ours or not described:
        raise UserError(f"{path} is not as it was written")
    for name, expected in described.items():
        file = directory / name
        if Path(name).name != name or not file.is_file():
            raise UserError(f"{file} is missing")
        if (found := _describe(file)) != expected:
            wanted = expected if isinstance(expected, dict) else {}
            same_size = found["bytes"] == wanted.get("bytes")
            reason = "another checksum" if same_size else f"{found['bytes']} bytes, not {wanted.get('bytes')}"
            raise UserError(f"{file} is not as it was written ({reason})")


def _describe(path: Path) -> dict[str, int | str]:
    try:
        return {"bytes": path.stat().st_size, "sha256": hexdigest(path, hashlib.sha256())}
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
