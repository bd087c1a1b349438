"""Fine-tunes GPT-2, with LoRA or as a whole.

python train.py --task dailydialog                              # gpt2-nano, data from the hub
python train.py --task dailydialog --model gpt2 --device cuda   # GPT-2 small on a GPU
python train.py --task dailydialog --data-dir sample            # offline: the embedded sample
python train.py --task chat --data chats.jsonl                  # your own data; or instruct, complete, classify
python train.py --config runs/mine/arguments.yaml --output-dir runs/two   # a run again
python train.py --output-dir runs/mine --resume                 # on from its newest checkpoint
mpirun -np 2 python train.py --task dailydialog                 # two processes, each with half of every batch
"""

import contextlib
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

from common import processes
from common.command import Parser
from common.errors import ErrorCollector, UserError
from common.files import check_writable, remove_unfinished, write_text
from common.lock import locked
from common.options import add_options, option_name
from common.output import ignore_closed_output
from gpt2_jittor.runtime.precision import check_base, check_precision
from training import trackers
from training.arguments import TrainingArguments, over, read_recipe, resolve, resolve_resumed
from training.folder import check_own, holds_run


def parse() -> tuple[TrainingArguments, TrainingArguments | None]:
    """The run's arguments, and with --resume those that it had before."""
    parser = Parser(prog="train.py", description=__doc__)
    parser.add_argument("--config", type=Path, metavar="FILE.yaml", help="a recipe; the command line wins over it")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of the run's folder")
    add_options(parser, TrainingArguments)
    given = vars(parser.parse_args())
    recipe, resume = given.pop("config", None), given.pop("resume")
    values, errors = {}, ErrorCollector()
    with errors.collect():
        values = read_recipe(recipe) if recipe else {}
    with errors.collect():
        arguments = resolve(given, values, recipe)
    lora_options = [option_name(name) for name in given if name.startswith("lora_")]
    with errors.collect():
        if given.get("tuning", values.get("tuning")) == "full" and lora_options:
            raise UserError(f"--tuning full trains every weight: leave out {', '.join(lora_options)}")
    errors.raise_all()
    if not resume:
        return arguments, None
    said = {name: value for name, value in over(values, given).items() if value is not None}
    return resolve_resumed(said, arguments.run_dir)


def main() -> None:
    """Checks everything that can be wrong, then trains. Raises UserError with all that was found, together."""
    arguments, before = parse()
    # What can be wrong is found before Jittor is imported, which takes minutes on a new machine.
    from training.setup import check_not_shorter, is_here, read_inputs

    errors = ErrorCollector()
    with errors.collect():
        check_folder(arguments.run_dir, before)
    with errors.collect():
        check_device(arguments)
    with errors.collect():
        trackers.check(arguments.report_to)
    if not is_here(arguments):
        errors.raise_all()  # before minutes of a download
    with errors.collect():
        inputs = read_inputs(arguments)
    errors.raise_all()
    if before:
        check_not_shorter(inputs, before)
    with locked(inputs.arguments.run_dir) if processes.is_first() else contextlib.nullcontext():
        if processes.is_first():
            check_folder(arguments.run_dir, before)  # another run may have ended in it meanwhile
            remove_unfinished(arguments.run_dir)
        train(inputs, resume=before is not None)


def check_folder(run_dir: Path, before: TrainingArguments | None) -> None:
    """Raises UserError where a new run would begin in another's folder, where a part of it lies elsewhere, or where
    nothing can be written.
    """
    if before is None and holds_run(run_dir):
        raise UserError(f"{run_dir} holds a run already: add --resume to go on, or choose another --output-dir")
    check_own(run_dir)
    check_writable(run_dir, "choose another --output-dir")


def check_device(arguments: TrainingArguments) -> str:
    """Settles the device, "cpu" or "cuda". Raises UserError where it cannot be had, or not in these precisions."""
    from gpt2_jittor.runtime import runtime

    device = runtime.prepare(arguments.device)
    check_precision(arguments.precision, device)
    check_base(arguments.base, arguments.precision, device)
    return device


def train(inputs, resume: bool) -> None:
    """Trains in a folder that is ours alone; only the first of several processes writes in it."""
    run_dir, device, precision = inputs.arguments.run_dir, check_device(inputs.arguments), inputs.arguments.precision
    writes = processes.is_first()
    with arguments_kept(inputs.arguments, run_dir / "arguments.yaml") if writes else contextlib.nullcontext():
        from lora import count
        from training.loss_plot import plot
        from training.model_card import write_card
        from training.setup import build_trainer

        trainer = build_trainer(inputs, resume)
        trained, frozen = count(trainer.model)
        several = f" in {processes.count()} processes" if processes.count() > 1 else ""
        how = device if precision == "fp32" else f"{device} in {precision}"
        how += f", a base in {base}" if (base := inputs.arguments.base) != "fp32" else ""
        print(f"{inputs.arguments.model} on {how}{several}: {trained:,} parameters trained, {frozen:,} frozen")
        for reason in trainer.damaged:
            print(f"passed over: {reason}")
        if resume:
            print(f"resuming from {trainer.resumed_from or 'the beginning: no checkpoint was written yet'}")
        for note in trainer.notes:
            print(note)
        trainer.begin()
    started = time.perf_counter()
    trainer.run()
    if not writes:
        return
    write_card(inputs, trainer.progress, trained, frozen, trainer.whole_score)
    plot([run_dir], run_dir / "loss.png")
    summarise(trainer, time.perf_counter() - started)


@contextlib.contextmanager
def arguments_kept(arguments: TrainingArguments, path: Path) -> Iterator[None]:
    """Writes a run's arguments, for a --resume at any moment from now on; a run that never began leaves none."""
    before = path.read_bytes() if path.is_file() else None
    arguments.save(path)
    try:
        yield
    except UserError:
        if before is None:
            path.unlink()
        else:
            write_text(path, before.decode())
        raise


def summarise(trainer, seconds: float) -> None:
    """What came out, where it lies, and what to type next."""
    from generation.scoring import Score

    progress, run_dir = trainer.progress, trainer.run_dir
    before = Score(progress.first_loss, 0, progress.first_accuracy)
    best = Score(progress.best_loss, 0, progress.best_accuracy)
    whole = f"on all {trainer.whole_score.examples:,}: {trainer.whole_score}\n" if trainer.whole_score else ""
    print(
        f"\nvalidation {before} -> {best} (best at step {progress.best_step} of {progress.step})\n{whole}"
        f"{trainer.tokens:,} tokens in {seconds:,.0f} s; everything is in {run_dir}, the curves in loss.png"
    )
    option = "--adapter" if trainer.arguments.tuning == "lora" else "--model"
    named = shlex.join([option, str(run_dir)])
    print(f"use it:     python generate.py {named}\nmeasure it: python evaluate.py {named}")


if __name__ == "__main__":
    ignore_closed_output("stdout", "stderr")
    processes.run_together(main)
