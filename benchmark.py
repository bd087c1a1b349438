"""Measures this project beside transformers + PEFT, torch.compile, CTranslate2 and the machine's own floor.

python benchmark.py train                        # LoRA updates, GPT-2 small, 8 x 128 tokens
python benchmark.py dora                         # the same with DoRA, beside LoRA
python benchmark.py decode                       # greedy, prompt 32 + 128 new tokens, one prompt and eight
python benchmark.py serve                        # 16 clients at once over HTTP, beside 16 prompts in one batch
python benchmark.py chat                         # the first token of a chat's next turn, 600 tokens of history
python benchmark.py epoch --data-dir data/dailydialog --dialogues 1000
python benchmark.py scale                        # an update over sequence lengths; --size for other models
python benchmark.py start                        # from the command to the end of the first update of gpt2-nano
python benchmark.py train --device cuda          # on a GPU: see also `make cuda-check`
Nothing else should run meanwhile. Needs what `make test` installs; `pip install ctranslate2` for its rows.
"""

import dataclasses
import json
import math
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

from common.command import Parser, run_command
from common.errors import UserError

WRAPPER = "transformers, generate behind Starlette"
EAGER, COMPILED, FLOOR = "transformers + PEFT", "the same, torch.compile", "the floor of this machine"
LENGTHS = (128, 256, 512, 1024)
SCALE_TOKENS = 1024
LORA_DROPOUT = 0.05
PROMPT = 32  # tokens before those that are decoded
HISTORY, TURN = 600, 20  # tokens of a chat before its next turn, and of that
CLIENTS = 16
NANO = Path(__file__).resolve().parent / "checkpoints" / "gpt2-nano"


def parse():
    """The options. Raises UserError for sizes below 1, or beyond the model's or this machine's."""
    parser = Parser(prog="benchmark.py", description=__doc__)
    parser.add_argument("race", choices=("train", "dora", "decode", "serve", "chat", "epoch", "scale", "start"))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="(default: cpu)")
    parser.add_argument("--size", default="gpt2", choices=("tiny", "gpt2", "gpt2-medium"), help="(default: gpt2)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: 5); of an epoch, each does a part of it")
    parser.add_argument("--repeat", type=int, default=1, help="units of work in a round (default: 1)")
    parser.add_argument("--batch-size", type=int, default=8, help="of an update (default: 8)")
    parser.add_argument("--time", type=int, default=128, help="tokens of a sequence (default: 128)")
    parser.add_argument("--new", type=int, default=128, help="tokens to decode (default: 128)")
    parser.add_argument("--dialogues", type=int, default=1000, help="of an epoch (default: 1000)")
    parser.add_argument("--data-dir", help="DailyDialog's files, or `sample`; else the hub's copy")
    parser.add_argument(
        "--precision", nargs="+", default=["fp32"], choices=("fp32", "bf16"), help="of train on CUDA (default: fp32)"
    )
    parser.add_argument("--only", nargs="+", metavar="TEXT", help="contestants whose names hold one of these")
    parser.add_argument("--without", nargs="+", default=[], metavar="TEXT", help="not those whose names hold one")
    parser.add_argument("--torch-python", metavar="PYTHON", default=sys.executable, help="that has PyTorch")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw bars")
    given = parser.parse_args()
    for name in ("rounds", "repeat", "batch_size", "time", "new", "dialogues"):
        if getattr(given, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(given, name)}")
    if given.precision != ["fp32"] and (given.race, given.device) != ("train", "cuda"):
        raise UserError("--precision is of `train --device cuda` alone")
    if not shutil.which(given.torch_python):
        raise UserError(f"--torch-python {given.torch_python}: there is no such program")
    check_sizes(given)
    return given


def check_sizes(given) -> None:
    """Raises UserError where a sequence has more tokens than the model, or a batch more than this machine bears."""
    from benchmarks.inputs import SIZES
    from gpt2_jittor.checkpoint.config import GPT2Config
    from gpt2_jittor.runtime.demand import check_training

    config = GPT2Config.from_pretrained(NANO) if given.race == "start" else GPT2Config(**SIZES[given.size])
    positions = config.n_positions
    if given.race in ("train", "dora", "start") and given.time > positions:
        raise UserError(f"--time must be at most the model's {positions} positions, not {given.time}")
    if given.race in ("decode", "serve") and PROMPT + given.new > positions:
        raise UserError(f"--new must be at most {positions - PROMPT}, what the prompt leaves, not {given.new}")
    if given.race in ("train", "dora", "start"):
        check_training(config, given.batch_size, given.time, "--batch-size")
    elif given.race == "epoch":
        check_training(config, min(given.batch_size, given.dialogues), 1, "--batch-size")


def trainers(
    task: str, model: Path, data: Path, theirs: Path | None = None, repeat: int = 1, device: str = "cpu", **more
) -> list:
    """Who trains: the same settings for all, but for the batches where padding is the point."""
    from benchmarks.race import Contestant

    settings = {"task": task, "model": str(model), "repeat": repeat, "device": device, "lora_dropout": LORA_DROPOUT}
    ours, others = settings | more | {"data": str(data)}, settings | more | {"data": str(theirs or data)}
    first, eager = Contestant("this project", "benchmarks.ours", ours), Contestant(EAGER, "torch_side.py", others)
    compiled = Contestant(COMPILED, "torch_side.py", others | {"compile": True})
    if task == "epoch":  # without the composed operators, which take 10 GB for its longest batches
        return [first, eager, compiled]
    composed = without_kernels(first)
    if device == "cuda":  # one after the other: what matters most comes first
        return [first, eager, compiled, composed]
    return [first, composed, eager, compiled, Contestant(FLOOR, "floor.py", others)]


def with_dora(trainers: list) -> list:
    """Both sides with LoRA, and with DoRA at the same settings."""
    sides = [contestant for contestant in trainers if contestant.name in ("this project", EAGER)]
    dora = [dataclasses.replace(c, name=f"{c.name}, DoRA", settings=c.settings | {"dora": True}) for c in sides]
    return [*sides, *dora]


def without_kernels(contestant):
    """The same by composed operators alone."""
    settings = contestant.settings | {"fused": False}
    return dataclasses.replace(contestant, name=f"{contestant.name}, composed", settings=settings)


def decoders(model: Path, data: Path, batch: int, new: int, repeat: int, device: str = "cpu") -> list:
    """Who decodes."""
    import os

    from benchmarks.race import Contestant

    settings = {"task": "decode", "model": str(model), "data": str(data), "batch": batch, "new": new}
    settings |= {"repeat": repeat, "device": device}
    first, eager = Contestant("this project", "benchmarks.ours", settings), Contestant(EAGER, "torch_side.py", settings)
    if device == "cuda":
        return [first, eager, without_kernels(first)]
    translate = settings | {"threads": len(os.sched_getaffinity(0))}
    return [
        first,
        Contestant("this project, int8", "benchmarks.ours", settings | {"int8": True}),
        eager,
        Contestant("CTranslate2, float32", "ctranslate.py", translate | {"compute_type": "float32"}),
        Contestant("CTranslate2, int8", "ctranslate.py", translate | {"compute_type": "int8"}),
        Contestant(FLOOR, "floor.py", settings),
    ]


def servers(model: Path, data: Path, new: int, repeat: int) -> list:
    """Who answers many clients at once: over HTTP, and all prompts in one batch without a server."""
    from benchmarks.race import Contestant

    settings = {"model": str(model), "data": str(data), "new": new, "repeat": repeat}
    return [
        Contestant("this project, served", "benchmarks.served", settings | {"server": "ours"}),
        Contestant("this project, one batch", "benchmarks.ours", settings | {"task": "decode", "device": "cpu"}),
        Contestant(WRAPPER, "benchmarks.served", settings | {"server": "wrapper"}),
    ]


def talkers(model: Path, data: Path, repeat: int, device: str) -> list:
    """Who answers a chat's next turn, with what was computed of its history and without."""
    from benchmarks.race import Contestant

    settings = {"task": "chat", "model": str(model), "data": str(data), "repeat": repeat, "device": device}
    sides = (("this project", "benchmarks.ours"), (EAGER, "torch_side.py"))
    anew = [Contestant(name, program, settings | {"keeps": False}) for name, program in sides]
    keeping = [Contestant(f"{name}, history kept", program, settings | {"keeps": True}) for name, program in sides]
    return [*keeping, *anew]


def starters(model: Path, data: Path, **more) -> list:
    """Who begins: with kernels that were compiled before, with none of them, and PyTorch."""
    first, *others = trainers("train", model, data, **more)
    cold = dataclasses.replace(
        first, name="this project, nothing compiled yet", settings=first.settings | {"cold": True}
    )
    return [first, cold, *(other for other in others if other.name in (EAGER, COMPILED))]


def races(given, folder: Path):
    """Yields (title, contestants, tokens of a unit of work)."""
    from benchmarks import inputs

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
    elif given.race == "dora":
        batch, time = given.batch_size, given.time
        data = inputs.random_batches(folder / "batches.npz", vocab, batch, time)
        contestants = trainers("train", model, data, **common, batch=batch, time=time)
        yield f"update with LoRA and DoRA, {given.size}, {batch} x {time} tokens", with_dora(contestants), batch * time
    elif given.race == "decode":
        for batch in (1, 8):
            data = inputs.random_prompts(folder / f"prompts{batch}.npz", vocab, batch, PROMPT)
            title = f"greedy decoding, {given.size}, batch {batch}, {PROMPT} + {given.new} tokens"
            yield title, decoders(model, data, batch, given.new, **common), batch * given.new
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


def main() -> None:
    """Runs the races of one kind, prints a table for each, and writes what was asked for."""
    given = parse()
    from benchmarks import report
    from benchmarks.race import race, race_in_turn

    command = shlex.join(["python", *sys.argv])
    tables = {}
    with tempfile.TemporaryDirectory() as folder:
        for title, contestants, tokens in races(given, Path(folder)):
            chosen = choose(contestants, given)

            def keep(results: dict, title=title, tokens=tokens) -> None:
                """Takes the table up; on a device, which may not be lent for long, writes what there is."""
                peer = WRAPPER if given.race == "serve" else EAGER
                tables[title] = report.rows(results, tokens, peer, FLOOR, whole=given.race == "epoch")
                if given.json and given.device == "cuda":
                    report.write(given.json, tables, command)

            if given.device == "cpu":
                keep(race(chosen, given.rounds, say))
            else:
                race_in_turn(chosen, given.rounds, say, keep)
            print(f"\n{report.show(title, tables[title])}", flush=True)
            if given.race in ("decode", "serve", "chat"):
                report.check_same_outcome(tables[title])
    print(f"\n{report.machine()}; `{command}`")
    if given.json:
        report.write(given.json, tables, command)
    if given.plot:
        report.draw(given.plot, tables)


if __name__ == "__main__":
    run_command(main)
