"""Measures this project beside transformers + PEFT, torch.compile, CTranslate2 and the machine's own floor.

python benchmark.py train                        # LoRA updates, GPT-2 small, 8 x 128 tokens
python benchmark.py dora                         # the same with DoRA, beside LoRA
python benchmark.py decode                       # greedy, prompt 32 + 128 new tokens, one prompt and eight
python benchmark.py decode --top-p 0.9           # the same, drawn from what top-p leaves
python benchmark.py serve                        # 16 clients at once over HTTP, beside 16 prompts in one batch
python benchmark.py chat                         # the first token of a chat's next turn, 600 tokens of history
python benchmark.py epoch --data-dir data/dailydialog --dialogues 1000
python benchmark.py scale                        # an update over sequence lengths; --size for other models
python benchmark.py memory --rounds 1            # the most memory that an update takes, and what makes it less
python benchmark.py profile                      # where the time of an update and of a token goes
python benchmark.py start                        # from the command to the end of the first update of gpt2-nano
python benchmark.py train --device cuda          # on a GPU: see also `make cuda-check`
Nothing else should run meanwhile. Needs what `make test` installs; `pip install ctranslate2` for its rows.
"""

import dataclasses
import itertools
import json
import math
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks.inputs import SIZES
from common.command import Parser, run_command
from common.errors import UserError
from gpt2_jittor.runtime.precision import BASES, WEIGHTS, check_precision

UPDATES = ("train", "dora", "memory", "profile", "start")  # of --batch-size times --time tokens
RACES = (*UPDATES, "decode", "serve", "chat", "epoch", "scale")
LENGTHS = (128, 256, 512, 1024)
SCALE_TOKENS = 1024
PROMPT = 32  # tokens before those that are decoded
HISTORY, TURN = 600, 20  # tokens of a chat before its next turn, and of that
CLIENTS = 16
NANO = Path(__file__).resolve().parent / "checkpoints" / "gpt2-nano"


def parse():
    """The options. Raises UserError for sizes below 1, or beyond the model's or this machine's."""
    parser = Parser(prog="benchmark.py", description=__doc__)
    parser.add_argument("race", choices=RACES, metavar="{" + ",".join(RACES) + "}")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="(default: cpu)")
    parser.add_argument("--size", default="gpt2", choices=tuple(SIZES), help="(default: gpt2)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: 5); of an epoch, each does a part of it")
    parser.add_argument("--repeat", type=int, default=1, help="units of work in a round (default: 1)")
    parser.add_argument("--batch-size", type=int, default=8, help="of an update (default: 8)")
    parser.add_argument("--time", type=int, default=128, help="tokens of a sequence (default: 128)")
    parser.add_argument("--new", type=int, default=128, help="tokens to decode (default: 128)")
    parser.add_argument("--top-p", type=float, metavar="P", help="of decode: tokens are drawn (default: greedy)")
    parser.add_argument("--dialogues", type=int, default=1000, help="of an epoch (default: 1000)")
    parser.add_argument("--data-dir", help="DailyDialog's files, or `sample`; else the hub's copy")
    parser.add_argument(
        "--precision", nargs="+", default=["fp32"], choices=("fp32", "bf16"), help="of train, profile (default: fp32)"
    )
    parser.add_argument("--base", default="fp32", choices=BASES, help="of profile's update (default: fp32)")
    parser.add_argument("--weights", nargs="+", default=["fp32"], choices=WEIGHTS, help="of profile (default: fp32)")
    parser.add_argument("--only", nargs="+", metavar="TEXT", help="contestants whose names hold one of these")
    parser.add_argument("--without", nargs="+", default=[], metavar="TEXT", help="not those whose names hold one")
    parser.add_argument("--torch-python", metavar="PYTHON", default=sys.executable, help="that has PyTorch")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw bars")
    given = parser.parse_args()
    for name in ("rounds", "repeat", "batch_size", "time", "new", "dialogues"):
        if getattr(given, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(given, name)}")
    if given.precision != ["fp32"] and given.race not in ("train", "profile"):
        raise UserError("--precision is of `train` and `profile` alone")
    if given.base != "fp32" and (given.race != "profile" or given.precision != ["fp32"]):
        raise UserError("--base is of `profile` alone, and goes with --precision fp32: `memory` races all of them")
    for precision in given.precision if given.device == "cpu" else ():  # of CUDA, who takes part says so himself
        check_precision(precision, given.device)
    if given.weights != ["fp32"] and given.race != "profile":
        raise UserError("--weights is of `profile` alone: decode races all of them")
    if given.top_p is not None and not (given.race == "decode" and 0 < given.top_p <= 1):
        raise UserError("--top-p is of `decode` alone, above 0 and up to 1")
    if given.race == "profile" and (given.plot or given.only or given.without):
        raise UserError("--plot, --only and --without are of races, `profile` is none: leave them out")
    if given.race in ("memory", "profile") and given.device == "cuda":
        raise UserError(f"`{given.race}` is of the CPU; for CUDA: python -m tools.cuda.times")
    if not shutil.which(given.torch_python):
        raise UserError(f"--torch-python {given.torch_python}: there is no such program")
    check_sizes(given)
    return given


def check_sizes(given) -> None:
    """Raises UserError where a sequence has more tokens than the model, or a batch more than this machine bears."""
    from gpt2_jittor.checkpoint.config import GPT2Config
    from gpt2_jittor.runtime.demand import check_training

    config = GPT2Config.from_pretrained(NANO) if given.race == "start" else GPT2Config(**SIZES[given.size])
    positions = config.n_positions
    if given.race in UPDATES and given.time > positions:
        raise UserError(f"--time must be at most the model's {positions} positions, not {given.time}")
    if given.race in ("decode", "serve", "profile") and PROMPT + given.new > positions:
        raise UserError(f"--new must be at most {positions - PROMPT}, what the prompt leaves, not {given.new}")
    if given.race in UPDATES:
        check_training(config, given.batch_size, given.time, "--batch-size")
    elif given.race == "epoch":
        check_training(config, min(given.batch_size, given.dialogues), 1, "--batch-size")


def races(given, folder: Path):
    """Yields (title, contestants, tokens of a unit of work)."""
    from benchmarks import inputs
    from benchmarks.contestants import decoders, leaner, servers, starters, talkers, trainers, with_dora

    common = {"repeat": given.repeat, "device": given.device}
    if given.race == "start":
        vocab = json.loads((NANO / "config.json").read_text(encoding="utf-8"))["vocab_size"]
        data = inputs.random_batches(folder / "batches.npz", vocab, given.batch_size, given.time)
        more = {"batch": given.batch_size, "time": given.time, "device": given.device}
        title = f"LoRA update, gpt2-nano, {given.batch_size} x {given.time} tokens"
        yield title, starters(NANO, data, **more), given.batch_size * given.time
        return
    model = inputs.random_model(given.size, folder / given.size)
    vocab = inputs.SIZES[given.size].get("vocab_size", 50257)
    if given.race == "train":
        batch, time = given.batch_size, given.time
        data = inputs.random_batches(folder / "batches.npz", vocab, batch, time)
        for precision in given.precision:
            title = f"LoRA update, {given.size}, {batch} x {time} tokens, {precision}"
            contestants = trainers("train", model, data, **common, batch=batch, time=time, precision=precision)
            yield title, contestants, batch * time
    elif given.race in ("dora", "memory"):
        batch, time = given.batch_size, given.time
        data = inputs.random_batches(folder / "batches.npz", vocab, batch, time)
        contestants = trainers("train", model, data, **common, batch=batch, time=time)
        what, several = ("with LoRA and DoRA", with_dora) if given.race == "dora" else ("with LoRA", leaner)
        yield f"update {what}, {given.size}, {batch} x {time} tokens", several(contestants), batch * time
    elif given.race == "decode":
        for batch in (1, 8):
            data = inputs.random_prompts(folder / f"prompts{batch}.npz", vocab, batch, PROMPT)
            how = "greedy decoding" if given.top_p is None else f"drawing by top-p {given.top_p:g}"
            title = f"{how}, {given.size}, batch {batch}, {PROMPT} + {given.new} tokens"
            yield title, decoders(model, data, batch, given.new, **common, top_p=given.top_p), batch * given.new
    elif given.race == "serve":
        data = inputs.random_prompts(folder / "prompts.npz", vocab, CLIENTS, PROMPT)
        title = f"{CLIENTS} clients, {given.size}, {PROMPT} + {given.new} tokens"
        yield title, servers(model, data, given.new, given.repeat), CLIENTS * given.new
    elif given.race == "chat":
        history = min(HISTORY, inputs.SIZES[given.size].get("n_positions", 1024) - TURN - 1)
        data = inputs.random_turns(folder / "turns.npz", vocab, history, TURN)
        yield f"first token of a turn of {TURN}, {given.size}, history {history}", talkers(model, data, **common), 1
    elif given.race == "epoch":
        data = inputs.dialogues(folder, given.data_dir, NANO, given.dialogues, given.batch_size)
        parts, batches = given.rounds * given.repeat, math.ceil(given.dialogues / given.batch_size)
        if parts > batches:
            raise UserError(f"{batches} batches cannot be shared out among {parts} rounds: lower --rounds")
        title = f"{given.dialogues:,} dialogues once, {given.size}, batch {given.batch_size}"
        contestants = trainers("epoch", model, data["grouped"], data["shuffled"], **common, parts=parts)
        yield title, contestants, data["tokens"]
    else:
        for time in LENGTHS:
            batch = SCALE_TOKENS // time
            data = inputs.random_batches(folder / f"batches{time}.npz", vocab, batch, time)
            title = f"LoRA update, {given.size}, {batch} x {time} tokens"
            yield title, trainers("train", model, data, **common, batch=batch, time=time), SCALE_TOKENS


def say(text: str) -> None:
    """What goes on, beside the tables."""
    print(text, file=sys.stderr, flush=True)


def choose(contestants: list, given) -> list:
    """Those that `--only` and `--without` leave, PyTorch's run by its Python. Raises UserError where none is left."""
    chosen = [c for c in contestants if not given.only or any(text in c.name for text in given.only)]
    chosen = [c for c in chosen if not any(text in c.name for text in given.without)]
    if not chosen:
        raise UserError(f"--only: no contestant is called so; {', '.join(c.name for c in contestants)}")
    pythons = {"torch_side.py": given.torch_python}
    return [dataclasses.replace(c, python=pythons.get(c.program, c.python)) for c in chosen]


def run_races(given, folder: Path, command: str) -> dict:
    """The races of one kind: prints a table for each, and returns them by title."""
    from benchmarks import report
    from benchmarks.contestants import EAGER, FLOOR, WRAPPER
    from benchmarks.race import race, race_in_turn

    tables = {}
    for title, contestants, tokens in races(given, folder):
        chosen = choose(contestants, given)

        def keep(results: dict, title=title, tokens=tokens) -> None:
            """Takes the table up; on a device, which may not be lent for long, writes what there is."""
            peer = WRAPPER if given.race == "serve" else EAGER
            tables[title] = report.rows(results, tokens, peer, FLOOR, whole=given.race == "epoch")
            if given.json and given.device == "cuda":
                report.write(given.json, tables, command)

        if given.device == "cpu" and given.race != "memory":
            keep(race(chosen, given.rounds, say))
        else:
            race_in_turn(chosen, given.rounds, say, keep)
        columns = report.MEMORY if given.race == "memory" else report.TIMES
        print(f"\n{report.show(title, tables[title], columns)}", flush=True)
        if given.race in ("decode", "serve", "chat"):
            report.check_same_outcome(tables[title])
    return tables


def run_profiles(given, folder: Path) -> dict:
    """Where time goes: prints a table of an update, and of a token of one text and of eight; returns them by title."""
    from benchmarks import inputs, ours, profiling
    from benchmarks.contestants import trainers

    model = inputs.random_model(given.size, folder / given.size)
    vocab, batch, tables = inputs.SIZES[given.size].get("vocab_size", 50257), given.batch_size, {}

    def keep(title: str, rows: list[dict]) -> None:
        """Takes a table up and prints it."""
        tables[title] = rows
        print(f"\n{profiling.show(title, rows)}", flush=True)

    data = inputs.random_batches(folder / "batches.npz", vocab, batch, given.time)
    settings = trainers("train", model, data, batch=batch, time=given.time)[0].settings
    for precision in given.precision:
        title = f"LoRA update, {given.size}, {batch} x {given.time} tokens, {precision}"
        title += f", base in {given.base}" if given.base != "fp32" else ""
        work = ours.prepare(settings | {"precision": precision, "base": given.base})
        keep(title, profiling.of_update(work, given.rounds))
    for texts, weights in itertools.product((1, 8), given.weights):
        data = inputs.random_prompts(folder / f"prompts{texts}.npz", vocab, texts, PROMPT)
        rows = profiling.of_token(model, data, weights, texts, given.new, given.rounds)
        keep(f"a token, {given.size}, batch {texts}, weights in {weights}", rows)
    return tables


def main() -> None:
    """Measures, prints tables, and writes what was asked for."""
    given = parse()
    from benchmarks import report

    command = shlex.join(["python", *sys.argv])
    with tempfile.TemporaryDirectory() as folder:
        if given.race == "profile":
            tables = run_profiles(given, Path(folder))
        else:
            tables = run_races(given, Path(folder), command)
    print(f"\n{report.machine()}; `{command}`")
    if given.json:
        report.write(given.json, tables, command)
    if given.plot:
        report.draw(given.plot, tables)


if __name__ == "__main__":
    run_command(main)
