"""The model card: what a run's folder says about itself to whoever finds it, in the hub's format."""

import shlex
from importlib.metadata import version
from pathlib import Path

import yaml

from common.files import write_text
from common.terminal import visible
from generation.scoring import Score
from training.arguments import TrainingArguments
from training.checkpoint import Progress
from training.setup import Inputs, base_name

CARD, BESIDE = "README.md", "model-card.md"  # the latter where the former is the user's own
OURS = "Everything that decides the run stands in `arguments.yaml`"


def write_card(inputs: Inputs, progress: Progress, trained: int, frozen: int, whole: Score | None = None) -> None:
    """Writes the card of a run: task, data, parameters, validation before and after, and the command to repeat it.

    `whole`: of the best weights on the whole validation set, where the others are of a part of it.
    """
    given, classify = inputs.arguments, not inputs.task.kind.generates
    before = Score(progress.first_loss, 0, progress.first_accuracy)
    best = Score(progress.best_loss, 0, progress.best_accuracy)
    lines = [
        "---",
        yaml.safe_dump(_header(inputs), sort_keys=False).strip(),
        "---",
        f"# {Path(given.model).name} on {given.task}, {'LoRA' if given.tuning == 'lora' else 'full fine-tuning'}",
        "",
        f"{trained:,} parameters trained, {frozen:,} frozen, in float32{_products(given)}.",
        "",
        f"| validation | loss | {'accuracy' if classify else 'perplexity'} |",
        "|---|---|---|",
        f"| before | {_cells(before)} |",
        f"| best, step {progress.best_step:,} of {progress.step:,} | {_cells(best)} |",
        *([f"| the same, on all {whole.examples:,} | {_cells(whole)} |"] if whole else []),
        "",
        "![loss curves](loss.png)",
        "",
        "## Data",
        "```",
        *inputs.reports,
        "```",
        "## Training",
        "```",
        shlex.join(["python", "train.py", "--config", f"{given.run_dir}/arguments.yaml", "--output-dir", "runs/again"]),
        "```",
        f"{OURS}; seed {given.seed}, Jittor {version('jittor')}.",
        "",
        "## Use",
        "```",
        *_use(inputs),
    ]
    path = given.run_dir / CARD
    if path.is_file() and OURS.encode() not in path.read_bytes():
        path = given.run_dir / BESIDE
    write_text(path, visible("\n".join(lines) + "\n"))  # names of folders may hold anything


def _header(inputs: Inputs) -> dict:
    """What the hub reads of a card."""
    lora, classify = inputs.arguments.tuning == "lora", not inputs.task.kind.generates
    header = {
        "library_name": "peft" if lora else "transformers",
        "pipeline_tag": "text-classification" if classify else "text-generation",
        "tags": ["gpt2", inputs.arguments.task, *(["lora"] if lora else [])],
    }
    base = base_name(inputs.arguments.model, inputs.source.directory)
    return header if Path(base).is_dir() else header | {"base_model": base}  # the hub knows names, not folders


def _use(inputs: Inputs) -> list[str]:
    """The commands that use the run, the end of their block, and how PEFT loads an adapter."""
    given, classify = inputs.arguments, not inputs.task.kind.generates
    option = "--adapter" if given.tuning == "lora" else "--model"
    lines = [shlex.join(["python", command, option, str(given.run_dir)]) for command in ("generate.py", "evaluate.py")]
    lines.append("```")
    if given.tuning != "lora":
        return lines
    auto = "SequenceClassification" if classify else "CausalLM"
    labels = f", num_labels={len(inputs.task.labels)}" if classify else ""  # transformers assumes two
    lines.append(f"With PEFT: `AutoPeftModelFor{auto}.from_pretrained(FOLDER, dtype=torch.float32{labels})`.")
    if classify:  # a batch is pooled at each row's last token that is no pad
        lines.append(f"For batches, `model.config.pad_token_id = {inputs.source.tokenizer.pad_token_id}`.")
    return lines


def _products(given: TrainingArguments) -> str:
    """What is in no float32, in words."""
    names = {"fp16": "float16", "bf16": "bfloat16", "int8": "int8 (LLM.int8())"}
    products = f", matrix products in {names[given.precision]}" if given.precision in names else ""
    return products + (f", the base kept in {names[given.base]}" if given.base in names else "")


def _cells(score: Score) -> str:
    other = f"{score.perplexity:.2f}" if score.accuracy is None else f"{score.accuracy:.1%}"
    return f"{score.loss:.4f} | {other}"
