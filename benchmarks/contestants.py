"""Who takes part in each race, and with which settings: those of one race differ by what their names say."""

import dataclasses
import os
from pathlib import Path

from benchmarks.race import Contestant
from gpt2_jittor.runtime import cpu

WRAPPER = "transformers, generate behind Starlette"
OURS, EAGER, COMPILED = "this project", "transformers + PEFT", "the same, torch.compile"
FLOOR = "the floor of this machine"
LORA_DROPOUT = 0.05
# of `memory`: what train.py is told, and the settings by which benchmarks/ours.py does the same
LEANER = {
    "--gradient-checkpointing": {"gradient_checkpointing": True},
    "--base bf16": {"base": "bf16"},
    "--base int8": {"base": "int8"},
    "--base int8 --gradient-checkpointing": {"base": "int8", "gradient_checkpointing": True},
}
BYTES = {"fp32": 4, "bf16": 2, "int8": 1}  # of a weight


def trainers(
    task: str, model: Path, data: Path, theirs: Path | None = None, repeat: int = 1, device: str = "cpu", **more
) -> list[Contestant]:
    """Who trains: the same settings for all, but for the batches where padding is the point."""
    settings = {"task": task, "model": str(model), "repeat": repeat, "device": device, "lora_dropout": LORA_DROPOUT}
    ours, others = settings | more | {"data": str(data)}, settings | more | {"data": str(theirs or data)}
    first, eager = Contestant(OURS, "benchmarks.ours", ours), Contestant(EAGER, "torch_side.py", others)
    compiled = Contestant(COMPILED, "torch_side.py", others | {"compile": True})
    if task == "epoch":  # without the composed operators, which take 10 GB for its longest batches
        return [first, eager, compiled]
    composed, floor = changed(first, "composed", fused=False), Contestant(FLOOR, "floor.py", others)
    if device == "cuda":  # one after the other: what matters most comes first
        return [first, eager, compiled, composed]
    if more.get("precision") == "bf16":  # composed rounds step by step here, for tests
        return [first, eager, changed(eager, "weights in float32", weights="fp32"), compiled, floor]
    return [first, composed, eager, compiled, floor]


def changed(contestant: Contestant, name: str, **settings) -> Contestant:
    """The same with other settings, and these in its name."""
    return dataclasses.replace(contestant, name=f"{contestant.name}, {name}", settings=contestant.settings | settings)


def sides(contestants: list[Contestant]) -> list[Contestant]:
    """This project and transformers + PEFT alone."""
    return [contestant for contestant in contestants if contestant.name in (OURS, EAGER)]


def with_dora(contestants: list[Contestant]) -> list[Contestant]:
    """Both sides with LoRA, and with DoRA at the same settings."""
    both = sides(contestants)
    return [*both, *(changed(contestant, "DoRA", dora=True) for contestant in both)]


def leaner(contestants: list[Contestant]) -> list[Contestant]:
    """Both sides, and with what makes an update take less memory."""
    ours, eager = sides(contestants)
    return [
        ours,
        *(changed(ours, options, **settings) for options, settings in LEANER.items()),
        eager,
        changed(eager, "gradient checkpointing", gradient_checkpointing=True),
        changed(eager, "bf16 autocast", precision="bf16"),
        changed(eager, "bitsandbytes int8", base="int8"),
    ]


def decoders(
    model: Path, data: Path, batch: int, new: int, repeat: int, device: str = "cpu", top_p: float | None = None
) -> list[Contestant]:
    """Who decodes; greedily without `top_p`. The floor reads as many bytes of weights as who is compared with it."""
    settings = {"task": "decode", "model": str(model), "data": str(data), "batch": batch, "new": new}
    settings |= {"repeat": repeat, "device": device, "top_p": top_p}
    first, eager = Contestant(OURS, "benchmarks.ours", settings), Contestant(EAGER, "torch_side.py", settings)
    if device == "cuda":
        return [first, eager, changed(first, "composed", fused=False)]
    theirs = Contestant("CTranslate2", "ctranslate.py", settings | {"threads": len(os.sched_getaffinity(0))})
    floor = Contestant(FLOOR, "floor.py", settings)
    half, small = ({"floor": f"{FLOOR}, {weights}"} for weights in ("bf16", "int8"))
    # without the instructions PyTorch takes ten times as long, and CTranslate2 refuses
    halves = [changed(eager, "bf16", precision="bf16"), changed(theirs, "bfloat16", compute_type="bfloat16")]
    return [
        first,
        dataclasses.replace(changed(first, "bf16", weights="bf16"), **half),
        dataclasses.replace(changed(first, "int8", weights="int8"), **small),
        eager,
        changed(theirs, "float32", compute_type="float32"),
        dataclasses.replace(changed(theirs, "int8", compute_type="int8"), **small),
        *(dataclasses.replace(each, **half) for each in halves if cpu.bf16_instructions()),
        *(floor if weights == "fp32" else changed(floor, weights, bytes=count) for weights, count in BYTES.items()),
    ]


def servers(model: Path, data: Path, new: int, repeat: int) -> list[Contestant]:
    """Who answers many clients at once: over HTTP, and all prompts in one batch without a server."""
    settings = {"model": str(model), "data": str(data), "new": new, "repeat": repeat}
    return [
        Contestant(f"{OURS}, served", "benchmarks.served", settings | {"server": "ours"}),
        Contestant(f"{OURS}, one batch", "benchmarks.ours", settings | {"task": "decode", "device": "cpu"}),
        Contestant(WRAPPER, "benchmarks.served", settings | {"server": "wrapper"}),
    ]


def talkers(model: Path, data: Path, repeat: int, device: str) -> list[Contestant]:
    """Who answers a chat's next turn, with what was computed of its history and without."""
    settings = {"task": "chat", "model": str(model), "data": str(data), "repeat": repeat, "device": device}
    both = [
        Contestant(name, program, settings | {"keeps": False})
        for name, program in ((OURS, "benchmarks.ours"), (EAGER, "torch_side.py"))
    ]
    return [*(changed(contestant, "history kept", keeps=True) for contestant in both), *both]


def starters(model: Path, data: Path, **more) -> list[Contestant]:
    """Who begins: with kernels that were compiled before, with none of them, and PyTorch."""
    first, *others = trainers("train", model, data, **more)
    cold = changed(first, "nothing compiled yet", cold=True)
    return [first, cold, *(other for other in others if other.name in (EAGER, COMPILED))]
