"""What `--resume` needs: the trained parameters, the optimiser's moments and the position, as whole folders."""

import dataclasses
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import safetensors.numpy

from common.errors import UserError
from common.files import read_json, replacing, write_json
from gpt2_jittor.pretrained import GPT2PreTrained
from gpt2_jittor.weights import read_safetensors, read_tensors
from lora.adapter import load_adapter, save_adapter
from lora.injection import adapter_config
from training.optimizer import AdamW

KEPT = 2  # checkpoints of a run, the newest ones


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


def save(run_dir: Path, model: GPT2PreTrained, optimizer: AdamW, progress: Progress) -> Path:
    """Writes checkpoint-<step>, visible only when complete, and removes all but the newest KEPT."""
    target = run_dir / f"checkpoint-{progress.step}"
    temporary = run_dir / f".checkpoint-{progress.step}"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        save_trained(model, temporary)
        with replacing(temporary / "optimizer.safetensors") as file:
            safetensors.numpy.save_file(optimizer.state(), file)
        write_json(temporary / "progress.json", dataclasses.asdict(progress))
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in checkpoints(run_dir)[:-KEPT]:
        shutil.rmtree(old)
    return target


def save_trained(model: GPT2PreTrained, directory: Path) -> None:
    """The adapter where there is one, else the whole model."""
    if adapter_config(model) is None:
        model.save_pretrained(directory)
    else:
        save_adapter(model, directory)


def load(directory: Path, model: GPT2PreTrained, optimizer: AdamW) -> Progress:
    """Puts parameters and moments back and returns the position. Raises UserError for a damaged checkpoint."""
    try:
        progress = Progress(**read_json(directory / "progress.json"))
        moments = read_safetensors(directory / "optimizer.safetensors")
        if adapter_config(model) is None:
            shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
            for name, array in read_tensors(directory, shapes):
                model.parameter(name).assign(array)
        else:
            load_adapter(model, directory, trained=True)
        optimizer.load_state(moments, progress.step)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{directory} does not belong to this run ({error}); remove it to start anew") from error
    return progress


def checkpoints(run_dir: Path) -> list[Path]:
    """A run's checkpoints, oldest first."""
    found = [path for path in run_dir.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")))


def newest(run_dir: Path) -> Path:
    """The checkpoint that `--resume` continues from. Raises UserError where there is none."""
    found = checkpoints(run_dir)
    if not found:
        raise UserError(f"{run_dir} holds no checkpoint to resume from; start without --resume")
    return found[-1]
