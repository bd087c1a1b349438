"""Fine-tunes GPT-2, with LoRA or as a whole.

python train.py --task dailydialog                              # gpt2-nano, data from the hub
python train.py --task dailydialog --model gpt2 --device cuda   # GPT-2 small on a GPU
python train.py --task dailydialog --data-dir sample            # offline: the embedded sample
python train.py --config runs/mine/arguments.yaml --output-dir runs/two   # a run again
python train.py --output-dir runs/mine --resume                 # on from its newest checkpoint
"""

import time
from pathlib import Path

from common.command import Parser, run_command
from common.errors import UserError
from training.arguments import TrainingArguments, add_options, option_name, read_recipe, resolve, resolve_resumed


def parse() -> tuple[TrainingArguments, bool]:
    parser = Parser(prog="train.py", description=__doc__)
    parser.add_argument("--config", type=Path, metavar="FILE.yaml", help="a recipe; the command line wins over it")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of the run's folder")
    add_options(parser)
    given = vars(parser.parse_args())
    recipe, resume = given.pop("config", None), given.pop("resume")
    arguments = resolve(given, read_recipe(recipe), recipe) if recipe else resolve(given)
    lora_options = [option_name(name) for name in given if name.startswith("lora_")]
    if arguments.tuning == "full" and lora_options:
        raise UserError(f"--tuning full trains every weight: leave out {', '.join(lora_options)}")
    return resolve_resumed(given, arguments.run_dir) if resume else arguments, resume


def main() -> None:
    arguments, resume = parse()
    # What can be wrong is found before Jittor is imported, which takes minutes on a new machine.
    from gpt2_jittor import runtime
    from training.setup import build_model, read_inputs

    run_dir = arguments.run_dir
    if not resume and any(run_dir.glob("checkpoint-*")):
        raise UserError(f"{run_dir} holds a run already: add --resume to go on, or choose another --output-dir")
    inputs = read_inputs(arguments)
    device = runtime.prepare(inputs.arguments.device)

    from lora import count
    from training.card import write_card
    from training.trainer import Trainer

    model = build_model(inputs)
    trained, frozen = count(model)
    print(f"{inputs.arguments.model} on {device}: {trained:,} parameters trained, {frozen:,} frozen")
    trainer = Trainer(inputs, model, resume)
    inputs.arguments.save(run_dir / "arguments.yaml")
    if trainer.resumed_from:
        print(f"resuming from {trainer.resumed_from}")
    started = time.perf_counter()
    trainer.run()
    write_card(inputs, trainer.progress, trained, frozen)
    summarise(trainer, time.perf_counter() - started)


def summarise(trainer, seconds: float) -> None:
    """What came out, where it lies, and what to type next."""
    from training.curves import plot
    from training.evaluation import Score

    progress, run_dir = trainer.progress, trainer.run_dir
    plot([run_dir], run_dir / "loss.png")
    before = Score(progress.first_loss, 0, progress.first_accuracy)
    best = Score(progress.best_loss, 0, progress.best_accuracy)
    print(
        f"\nvalidation {before} -> {best} (best at step {progress.best_step} of {progress.step})\n"
        f"{trainer.tokens:,} tokens in {seconds:,.0f} s; everything is in {run_dir}, the curves in loss.png"
    )
    option = "--adapter" if trainer.arguments.tuning == "lora" else "--model"
    print(f"use it:     python generate.py {option} {run_dir}\nmeasure it: python evaluate.py {option} {run_dir}")


if __name__ == "__main__":
    run_command(main)
