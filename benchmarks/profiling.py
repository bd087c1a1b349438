"""Where the time of an update and of a token goes on the CPU: `benchmark.py profile`.

An update is many operators, whose times Jittor's own profiler tells. Their work follows from the shapes with which
this project's kernels were called; Jittor counts the bytes of the others. A token is a single operator,
`ops/decode_step.py`, which reads the clock between its parts where it is asked to.
"""

import contextlib
import math
import re
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks import ours
from benchmarks.contestants import BYTES
from gpt2_jittor.checkpoint.config import GPT2Config

REST = "the rest: Python, graphs, choosing tokens"
ROWS = 20  # of a table: what is beyond is small

# floating-point operations of this project's kernels, by the shapes of their inputs and outputs (`ops/*.py`); of causal
# attention, whose scores are made again in the backward pass, those below the diagonal
OPERATIONS: dict[str, Callable[[list, list], float]] = {
    "projection": lambda given, made: 2 * given[0][0] * math.prod(given[1]),
    "projection_by_input": lambda given, made: 2 * given[0][0] * math.prod(given[1]),
    "lora_low": lambda given, made: 2 * given[0][0] * math.prod(given[1]),
    "lora_forward": lambda given, made: 2 * given[0][0] * (math.prod(given[1]) + math.prod(given[3])),
    "lora_by_input": lambda given, made: 2 * given[0][0] * (math.prod(given[1]) + math.prod(given[3])),
    "lora_backward": lambda given, made: 2 * given[2][0] * (math.prod(given[3]) + 2 * math.prod(given[4])),
    "head_loss_forward": lambda given, made: (4 if made[2] == given[0] else 2) * given[0][0] * math.prod(given[1]),
    "attention_forward": lambda given, made: 2 * math.prod(given[0]) // 3 * given[0][1],
    "attention_backward": lambda given, made: 5 * math.prod(given[0]) // 3 * given[0][1],
}


def operators(work: Callable) -> list[dict]:
    """The operators that `work` runs, a row of Jittor's profiler for each; numbers are strings."""
    from gpt2_jittor.runtime.backend import jt

    jt.profiler.start(0, 0)
    work()
    jt.profiler.stop()
    header, *rows = jt.profiler.report()
    return [dict(zip(header, row, strict=True)) for row in rows]


def description(key: str) -> str:
    """Jittor's key in a few words: this project's kernel, or the operators that were fused into this one."""
    if own := kernel_name(key.rpartition("«CODE:")[2]):
        return own
    names = re.findall(r"«opkey\d+:(\w+)", key) or [key.partition("«")[0]]
    kinds = re.findall(r"«OP:(\w+)", key)
    return " ".join(dict.fromkeys([name for name in names if name not in ("binary", "unary", "reduce")] + kinds))


def kernel_name(call: str) -> str:
    """The function that a call of `ops/fused.py` ends with; "" where it is none."""
    return (re.findall(r"(?:^|[;\n])\s*(\w+)\(", call) or [""])[-1]


def of_update(update: Callable, rounds: int) -> list[dict]:
    """A row for each kind of operator of an update, the longest first, and one for what is none: name, count, ms,
    share, gflops, gb_per_second, the last two where they are known. The mean of some rounds.
    """
    for _ in range(2):
        update()
    times, counts, read = defaultdict(float), defaultdict(int), defaultdict(float)
    with _called() as calls:
        spent = []
        found = operators(lambda: spent.extend(_seconds(update) for _ in range(rounds)))
    for row in found:
        name, seconds = description(row["Name"]), float(row["TotalTime"]) / 1e9  # the profiler counts nanoseconds
        times[name] += seconds / rounds
        counts[name] += int(row["Count"]) // rounds
        read[name] += float(row["InOut"]) * seconds / rounds  # bytes
    whole, rows = statistics.mean(spent), []
    for name, seconds in times.items():
        work = _executed(calls[name], counts[name], rounds) if name in OPERATIONS else []
        operations = sum(OPERATIONS[name](*shapes) for shapes in work)
        rows.append(_row(name, counts[name], seconds, whole, operations, 0 if work else read[name]))
    rows.sort(key=lambda row: -row["ms"])
    return [*rows, _row(REST, 1, max(0.0, whole - sum(times.values())), whole)]


def _executed(calls: list, count: int, rounds: int) -> list:
    """Of a round's calls of a kernel those that were executed: the last are not, where nothing is trained below."""
    return calls[: len(calls) // rounds][:count]


def of_token(model: Path, data: Path, weights: str, batch: int, new: int, rounds: int) -> list[dict]:
    """As `of_update`, of a token of each of `batch` texts, the mean of `new` behind their prompts."""
    from gpt2_jittor.ops import decode_step

    settings = {"task": "decode", "model": str(model), "data": str(data), "weights": weights}
    decoding = ours.prepare(settings | {"new": new + 1})
    reading = ours.decode(settings | {"new": 1})  # the prompt and the first token
    with decode_step.measured() as measured:
        for work in (reading, decoding):
            work()
        measured.clear()
        spent = sum(_seconds(decoding) - _seconds(reading) for _ in range(rounds)) / (rounds * new)
        parts = np.mean([seconds.numpy() for seconds in measured], axis=0)
    numbers = _weights(GPT2Config.from_pretrained(model))
    rows = []
    for name, seconds in zip(decode_step.MEASURED, parts.tolist(), strict=True):
        count = numbers.get(name, 0)
        rows.append(_row(name, 1, seconds, spent, 2 * count * batch, count * BYTES[weights]))
    rows.sort(key=lambda row: -row["ms"])
    return [*rows, _row(REST, 1, max(0.0, spent - float(parts.sum())), spent)]


def show(title: str, table: list[dict]) -> str:
    """The table as text."""
    columns = {
        "times": lambda row: f"{row['count']:,}",
        "ms": lambda row: f"{row['ms']:.3f}",
        "share": lambda row: f"{row['share']:.1%}",
        "GFLOP/s": lambda row: _rate(row["gflops"]),
        "GB/s": lambda row: _rate(row["gb_per_second"]),
    }
    *rows, rest = table
    lines = ["| " + " | ".join([title, *columns]) + " |", "|" + "---|" * (len(columns) + 1)]
    for row in [*rows[:ROWS], rest]:
        lines.append("| " + " | ".join([row["name"], *(shown(row) for shown in columns.values())]) + " |")
    small = sum(row["ms"] for row in rows[ROWS:])
    lines += [f"| {len(rows) - ROWS} more | | {small:.3f} | | | |"] if len(rows) > ROWS else []
    return "\n".join([*lines, f"| all | | {sum(row['ms'] for row in table):.3f} | | | |"])


def _row(name: str, count: int, seconds: float, whole: float, operations: float = 0, read: float = 0) -> dict:
    rates = (work / seconds / 1e9 if work and seconds else None for work in (operations, read))
    gflops, gb_per_second = rates
    figures = {"count": count, "ms": seconds * 1e3, "share": seconds / whole}
    return {"name": name, **figures, "gflops": gflops, "gb_per_second": gb_per_second}


def _rate(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _weights(config: GPT2Config) -> dict[str, int]:
    """How many weights the parts of a token read in all layers."""
    width, inner, layers = config.n_embd, config.mlp_size, config.n_layer
    shapes = {"attn.c_attn": 3 * width * width, "attn.c_proj": width * width}
    shapes |= {"mlp.c_fc, GELU": width * inner, "mlp.c_proj": inner * width}
    return {name: layers * count for name, count in shapes.items()} | {"head": width * config.vocab_size}


@contextlib.contextmanager
def _called() -> Iterator[dict[str, list[tuple[list, list]]]]:
    """The shapes of inputs and outputs with which each kernel is called within. Not all calls come to be executed."""
    from gpt2_jittor.ops import fused

    calls, run = defaultdict(list), fused.run

    def noted(kernels, call, shapes, inputs, **numbers):
        """`fused.run`, and a note of it."""
        calls[kernel_name(call)].append(([list(x.shape) for x in inputs], [list(shape) for shape in shapes]))
        return run(kernels, call, shapes, inputs, **numbers)

    fused.run = noted
    try:
        yield calls
    finally:
        fused.run = run


def _seconds(work: Callable) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
