"""The model card: what a run's folder says about itself to whoever finds it, in the hub's format."""

import shlex
import sys
from importlib.metadata import version
from pathlib import Path

import yaml

from common.files import write_text
from training.checkpoint import Progress
from training.evaluation import Score
from training.setup import Inputs, base_name

CARD = "README.md"


def write_card(inputs: Inputs, progress: Progress, trained: int, frozen: int) -> None:
    """Writes the card of a run: task, data, parameters, validation before and after, and the command to repeat it."""
    given = inputs.arguments
    lora = given.tuning == "lora"
    base = base_name(given.model, inputs.directory)
    header = {
        "library_name": "peft" if lora else "transformers",
        "pipeline_tag": "text-classification" if inputs.task.kind == "classify" else "text-generation",
        "tags": ["gpt2", given.task, *(["lora"] if lora else [])],
    }
    if not Path(base).is_dir():  # the hub knows names, not folders
        header["base_model"] = base
    before, best = Score(progress.first_loss, 0), Score(progress.best_loss, 0)
    lines = [
        "---",
        yaml.safe_dump(header, sort_keys=False).strip(),
        "---",
        f"# {Path(given.model).name} on {given.task}, {'LoRA' if lora else 'full fine-tuning'}",
        "",
        f"{trained:,} parameters trained, {frozen:,} frozen, in float32.",
        "",
        "| validation | loss | perplexity |",
        "|---|---|---|",
        f"| before | {before.loss:.4f} | {before.perplexity:.2f} |",
        f"| best, step {progress.best_step:,} of {progress.step:,} | {best.loss:.4f} | {best.perplexity:.2f} |",
        "",
        "![loss curves](loss.png)",
        "",
        "## Data",
        "```",
        *inputs.reports,
        "```",
        "## Training",
        "```",
        shlex.join(["python", *sys.argv]),
        "```",
        f"Everything that decides the run stands in `arguments.yaml`; seed {given.seed}, Jittor {version('jittor')}.",
        "",
        "## Use",
        "```",
        f"python generate.py {'--adapter' if lora else '--model'} {given.run_dir}",
        f"python evaluate.py {'--adapter' if lora else '--model'} {given.run_dir}",
        "```",
    ]
    if lora:
        auto = "SequenceClassification" if inputs.task.kind == "classify" else "CausalLM"
        lines += ["With PEFT: " + f"`AutoPeftModelFor{auto}.from_pretrained(FOLDER)`."]
    write_text(given.run_dir / CARD, "\n".join(lines) + "\n")
