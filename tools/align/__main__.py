"""Makes the same run here and in PyTorch (transformers + PEFT), update for update, and says how far apart they are.

python -m tools.align --task dailydialog --data-dir sample                 # nano, 200 updates
python -m tools.align --task squad --model gpt2 --steps 1000 --device cuda
python -m tools.align --config recipes/s3-squad.yaml --model nano --lora-dropout 0.1

Both sides begin with the same base and the same adapter, which is written once in PEFT's format, and take the same
batches in the same order: first without dropout, then with it. All options of train.py that decide a LoRA run can be
given. Ends with status 1 where a loss without dropout differs by more than 1e-3.
"""

import dataclasses
import json
import math
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks.report import machine
from common.command import Parser, run_command
from common.errors import UserError
from common.files import write_text
from common.lock import locked
from common.options import add_options
from lora.files import SETTINGS
from tools.align import inputs as make
from tools.align import race, report
from tools.align.turns import Prompt
from training.arguments import TrainingArguments, read_recipe, resolve
from training.metrics_log import METRICS
from training.setup import Inputs

DEFAULT_STEPS = 200
# options of train.py that make no sense here: the length is --steps, and nothing is saved or stopped early
LEFT_OUT = {"epochs", "max_steps", "tuning", "patience", "save_every", "skip_nonfinite", "added_tokens", "report_to"}
LEFT_OUT |= {"int8_threshold", "output_dir"}  # which has another default


def parse() -> tuple[TrainingArguments, str]:
    """The run, and the Python that has PyTorch. Raises UserError for options that are wrong."""
    parser = Parser(prog="python -m tools.align", description=__doc__)
    parser.add_argument("--config", type=Path, metavar="FILE.yaml", help="a recipe; the command line wins over it")
    parser.add_argument("--steps", type=int, help=f"updates; else a recipe's max_steps, else {DEFAULT_STEPS}")
    parser.add_argument("--torch-python", metavar="PYTHON", default=sys.executable, help="that has PyTorch and PEFT")
    add_options(parser, TrainingArguments, without=LEFT_OUT)
    parser.add_argument("--output-dir", metavar="FOLDER", help="the run's folder; else runs/align-<task>-<model>")
    given = vars(parser.parse_args())
    place, steps, python = given.pop("config"), given.pop("steps"), given.pop("torch_python")
    recipe = read_recipe(place) if place else {}
    steps = (recipe.get("max_steps") or DEFAULT_STEPS) if steps is None else steps
    if steps < 1:
        raise UserError(f"--steps must be at least 1, not {steps}")
    if not shutil.which(python):
        raise UserError(f"--torch-python {python}: there is no such program")
    output = given.pop("output_dir", None)
    arguments = resolve(given | {"max_steps": steps}, recipe, place)
    output = output or str(Path("runs") / f"align-{arguments.task}-{Path(arguments.model).name}")
    return dataclasses.replace(arguments, output_dir=output), python  # never the run's that a recipe was written by


def main() -> int:
    """Both phases, then table, picture and verdict; 1 where the bound is not held."""
    arguments, python = parse()
    device = make.check(arguments)
    inputs = make.read(arguments)
    folder = inputs.arguments.run_dir
    with locked(folder), tempfile.TemporaryDirectory() as temporary:
        clear(folder)
        inputs.arguments.save(folder / "arguments.yaml")
        data = Path(temporary) / "batches.npz"
        prompts = make.write(inputs, data)
        told = make.settings(inputs, folder, data, device)
        phases = {}
        for dropout in (False, True):
            sides = race.contestants(told | {"dropout": dropout}, python)
            phases[dropout] = report.Phase(*race.run(sides, told["steps"], folder, dropout).values())
        return tell(inputs, prompts, phases[False], phases[True], device)


def clear(folder: Path) -> None:
    """Removes what an earlier alignment has left, and nothing else. Raises UserError where the folder is a training's,
    and where what it would write there is not of an alignment.
    """
    if (folder / METRICS).exists():
        raise UserError(f"{folder} holds a run of train.py's: choose another --output-dir")
    logs = [folder / f"{name}{suffix}.jsonl" for name in race.LOGS.values() for suffix in race.SUFFIXES.values()]
    made = [*logs, *(folder / f"align.{suffix}" for suffix in ("md", "png", "json"))]
    start = folder / "start"
    if start.exists() and not (start / SETTINGS).is_file():
        raise UserError(f"{start} is no adapter that an alignment began with: choose another --output-dir")
    shutil.rmtree(start, ignore_errors=True)
    for path in made:
        path.unlink(missing_ok=True)


def tell(inputs: Inputs, prompts: list[Prompt], still: report.Phase, dropped: report.Phase, device: str) -> int:
    """Prints and writes what came out; the exit status."""
    from gpt2_jittor.checkpoint.tokenizer import text_of
    from tools.align.picture import draw

    given, folder = inputs.arguments, inputs.arguments.run_dir
    title = f"{given.model} on {given.task}, {len(still.ours.updates):,} updates of {given.batch_size}"
    verdict, table = report.verdict(still, given.precision), report.table(still, dropped)
    asked = [prompt.input_ids.tolist() for prompt in prompts]
    answers = report.replies(still, lambda ids: text_of(ids, inputs.source.tokenizer), asked)
    versions = ", ".join(f"{name} {number}" for name, number in (still.ours.versions | still.theirs.versions).items())
    where = f"{machine()}, {device} in {given.precision}; {versions}"
    parts = [f"# {title}", where, f"`{shlex.join(['python', '-m', 'tools.align', *sys.argv[1:]])}`", verdict, table]
    parts += [f"## Greedy replies, trained without dropout\n{answers}"] if asked else []
    write_text(folder / "align.md", "\n\n".join([*parts, "![both curves](align.png)"]) + "\n")
    size, step = still.largest
    largest = size if math.isfinite(size) else None  # of which JSON has no number
    figures = {"bound": report.BOUND, "largest": largest, "at_step": step, "held": still.is_held}
    write_text(folder / "align.json", json.dumps(figures | {"precision": given.precision, "machine": where}) + "\n")
    draw(folder / "align.png", still, dropped, title)
    print(f"\n{title}\n{where}\n\n{table}\n")
    if answers:
        print(f"greedy replies, trained without dropout:\n{answers}\n")
    print(
        f"{verdict}\neverything is in {folder}: align.md, align.png, the logs as JSON lines, the start as PEFT reads it"
    )
    return int(given.precision == "fp32" and not still.is_held)


if __name__ == "__main__":
    run_command(main)
