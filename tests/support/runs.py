"""Whole runs of the trainer in this process, on a tiny model and dialogues."""

import json

import tiny

from training.arguments import TrainingArguments
from training.setup import build_trainer, read_inputs
from training.trainer import Trainer


def build_world(root, **dialogues):
    """The folders of a model with dropout, `dropping`, and of dialogues, `data`; returns the one that holds them."""
    tiny.model_folder(root / "dropping", seed=1, dropout=0.1)
    tiny.dialogue_folder(root / "data", seed=2, **dialogues)
    return root


def arguments(world, run_dir, model="dropping", **settings) -> TrainingArguments:
    """Those of a run on a model and the dialogues of `world`."""
    tuned = {"lora_r": 3, "batch_size": 4, "learning_rate": 1e-2, "warmup_steps": 2, "data_dir": str(world / "data")}
    return TrainingArguments(model=str(world / model), output_dir=str(run_dir), **(tuned | settings))


def prepare(arguments, resume=False) -> Trainer:
    """The trainer, before its first step."""
    inputs = read_inputs(arguments, say=lambda text: None)
    return build_trainer(inputs, resume)


def run(arguments, resume=False) -> Trainer:
    """The trainer, after its last step."""
    trainer = prepare(arguments, resume)
    trainer.run()
    return trainer


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def metrics(run_dir, split="train") -> list[dict]:
    """The lines of metrics.jsonl about one split."""
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["split"] == split]
