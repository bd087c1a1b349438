"""Trains a model with each variant of LoRA at the same settings, and prints one table: what is it worth?

python -m tools.variants --data-dir data/dailydialog --output-dir runs/variants          # 3 epochs each: hours on a CPU
python -m tools.variants --data-dir data/dailydialog --output-dir runs/variants --max-steps 400
python -m tools.variants --data-dir data/dailydialog --output-dir runs/variants --precision bf16 --only DoRA "LoRA, r 8"

Runs that are there already are not made again, so that it can be stopped and started.
"""

import itertools
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np

from common.command import Parser, run_command
from common.errors import UserError
from common.files import read_yaml
from lora.files import read_adapter

COLUMNS = ("variant", "trained parameters", "test loss", "test perplexity", "seconds an update")
RATE = "3e-3"  # of nano on DailyDialog, chosen for LoRA of rank 8
VARIANTS = {
    **{f"LoRA, r {r}": ["--lora-r", str(r), "--lora-alpha", str(2 * r)] for r in (1, 2, 4, 8, 16, 32, 64)},
    "rsLoRA": ["--lora-rslora"],
    "LoRA+, ratio 4": ["--lora-plus-ratio", "4"],
    "DoRA": ["--lora-dora"],
    "PiSSA": ["--lora-init", "pissa"],
    "OLoRA": ["--lora-init", "olora"],
    "orthogonal": ["--lora-init", "orthogonal"],
    "q and v alone": ["--lora-targets", "q", "v"],
    "c_attn alone": ["--lora-targets", "c_attn"],
    "with the head": ["--lora-targets", "c_attn", "c_proj", "c_fc", "lm_head"],
}


def folder_name(variant: str) -> str:
    """The run's folder for a variant."""
    return variant.lower().replace(",", "").replace(" ", "-").replace("+", "-plus")


def train(run: Path, options: list[str], given) -> None:
    """Trains one variant, unless its curves are drawn already. Raises UserError where that fails, and for a run that
    was made otherwise."""
    if (run / "loss.png").is_file():
        check_same(run, given)
        return
    length = ["--epochs", "3"] if given.max_steps is None else ["--max-steps", str(given.max_steps)]
    command = ["train.py", "--task", given.task, "--data-dir", given.data_dir, "--model", given.model]
    command += ["--learning-rate", given.learning_rate, "--precision", given.precision]
    command += ["--output-dir", str(run), *length, *options]
    command += ["--resume"] if (run / "arguments.yaml").is_file() else []
    if ended(command):
        raise UserError(f"{run}: the training failed; what stands above says why")


def check_same(run: Path, given) -> None:
    """Raises UserError where a run that is there already was made with other data, or in another way."""
    made = read_yaml(run / "arguments.yaml")
    wanted = {name: getattr(given, name) for name in ("task", "model", "data_dir", "precision", "max_steps")}
    wanted |= {"learning_rate": float(given.learning_rate)}
    for name, value in wanted.items():
        if made.get(name) != value:
            raise UserError(f"{run} was made with {name} {made.get(name)}, not {value}: choose another --output-dir")


def ended(command: list[str]) -> int:
    """The status of a training. In a session of its own it hears once of what ends this program, and saves."""
    process = subprocess.Popen([sys.executable, *command], start_new_session=True)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise


def measured(run: Path, given) -> dict:
    """What became of a run: parameters, an update's seconds (median), and the test split's loss and perplexity."""
    command = ["evaluate.py", "--adapter", str(run), "--loss-only", "--json", "--data-dir", given.data_dir]
    told = subprocess.run([sys.executable, *command], check=False, stdout=subprocess.PIPE, text=True)
    if told.returncode:
        raise UserError(f"{run}: evaluate.py failed; what stands above says why")
    seconds = update_seconds(run)
    adapter = json.loads(told.stdout)["adapter"]
    return {
        "loss": adapter["loss"],
        "perplexity": adapter["perplexity"],
        # of q and v alone, B is zero in k's rows, which are stored and not trained
        "parameters": sum(np.count_nonzero(array) for array in read_adapter(run).tensors.values()),
        "seconds": statistics.median(seconds) if seconds else math.nan,
    }


def update_seconds(run: Path) -> list[float]:
    """How long each update took that no validation came before."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    pairs = [pair for pair in itertools.pairwise(records) if all(each["split"] == "train" for each in pair)]
    return [after["seconds"] - before["seconds"] for before, after in pairs]


def main() -> None:
    """Trains what is missing, measures all, prints a line for each as soon as it is known."""
    parser = Parser(prog="python -m tools.variants", description=__doc__)
    parser.add_argument("--task", default="dailydialog")
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--learning-rate", default=RATE)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--max-steps", type=int, help="instead of 3 epochs")
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--only", nargs="+", metavar="VARIANT", choices=VARIANTS, help="of: %(choices)s")
    given = parser.parse_args()
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    for name, options in VARIANTS.items():
        if given.only and name not in given.only:
            continue
        run = given.output_dir / folder_name(name)
        train(run, options, given)
        found = measured(run, given)
        figures = f"{found['loss']:.3f} | {found['perplexity']:.1f} | {found['seconds']:.2f}"
        print(f"| {name} | {found['parameters']:,} | {figures} |", flush=True)


if __name__ == "__main__":
    run_command(main)
