"""A race's outcome: a table with ratios, JSON, and bars."""

import datetime
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.race import Result
from common.errors import UserError
from common.files import write_json, writing_to
from gpt2_jittor.runtime import cpu

# how a row's figures are shown
TIMES = {
    "seconds": lambda row: f"{row['seconds']:.3f}",
    "min … max": lambda row: f"{row['min']:.3f} … {row['max']:.3f}",
    "÷ eager": lambda row: _ratio(row["of_eager"]),
    "÷ floor": lambda row: _ratio(row["of_floor"]),
    "per second": lambda row: f"{row['tokens_per_second']:,.1f}",
    "peak MB": lambda row: f"{row['peak_mb']:,.0f}",
    "first s": lambda row: f"{row['first_unit']:.1f}",
    "from start s": lambda row: f"{row['ready']:.1f}",
}
MEMORY = {
    "peak MB": TIMES["peak MB"],
    "÷ eager": lambda row: _ratio(row["memory_of_eager"]),
    "seconds": TIMES["seconds"],
    "seconds ÷ eager": TIMES["÷ eager"],
}


def machine() -> str:
    """The processor's name, its cores, and the day."""
    import os

    name, _ = cpu.read()
    return f"{name}, {len(os.sched_getaffinity(0))} cores, {datetime.date.today()}"


def rows(results: dict[str, Result], tokens: float, eager: str, floor: str, whole: bool = False) -> list[dict]:
    """A row for each contestant. `tokens` are those of one unit of work, whose median counts, or with `whole` those of
    all units, whose sum does.
    """
    counted = {name: result.total if whole else result.median for name, result in results.items() if not result.failure}
    table = []
    for name, result in results.items():
        if result.failure:
            table.append({"name": name, "failure": result.failure})
            continue
        all_seconds = [second for units_of_round in result.seconds for second in units_of_round]
        row = {"name": name, "seconds": counted[name], "min": min(all_seconds), "max": max(all_seconds)}
        row["tokens_per_second"] = tokens / counted[name]
        for key, other in (("of_eager", eager), ("of_floor", result.floor or floor)):
            row[key] = counted[name] / counted[other] if other in counted else math.nan
        row["memory_of_eager"] = result.peak_mb / results[eager].peak_mb if eager in counted else math.nan
        row |= {"peak_mb": result.peak_mb, "first_unit": result.first_unit, "ready": result.ready}
        if firsts := result.more.get("first_token"):
            row |= {"first_token_95": float(np.percentile(firsts, 95))}
        if bytes_read := result.more.get("bytes_read"):
            row |= {"gb_per_second": bytes_read / counted[name] / 1e9}
        table.append(row | {"outcome": result.outcome})
    return table


def check_same_outcome(table: list[dict]) -> None:
    """Raises UserError where the contestants did not all make the same number of tokens."""
    made = {row["name"]: row["outcome"] for row in table if "failure" not in row}
    if len(set(made.values())) > 1:
        raise UserError(f"not the same work: {', '.join(f'{name} made {count:g}' for name, count in made.items())}")


def show(title: str, table: list[dict], columns: dict[str, Callable[[dict], str]] = TIMES) -> str:
    """The table as text: it can stand in a README as it is."""
    head = "| " + " | ".join([title, *columns]) + " |"
    lines = [head, "|" + "---|" * (len(columns) + 1)]
    for row in table:
        if "failure" in row:
            lines.append(f"| {row['name']} | not run: {row['failure'][:80]} |" + " |" * (len(columns) - 1))
            continue
        lines.append("| " + " | ".join([row["name"], *(shown(row) for shown in columns.values())]) + " |")
    firsts = [f"{row['name']} {row['first_token_95']:.2f} s" for row in table if "first_token_95" in row]
    if firsts:
        lines.append(f"\nfirst token, 95th percentile: {', '.join(firsts)}")
    speeds = [f"{row['gb_per_second']:.1f} GB/s ({row['name']})" for row in table if "gb_per_second" in row]
    if speeds:
        lines.append(f"\nmemory is read at {', '.join(speeds)}")
    return "\n".join(lines)


def _ratio(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"


def write(path: Path, tables: dict[str, list[dict]], command: str) -> None:
    """All tables as JSON, with machine and command."""
    with writing_to(path) as temporary:
        write_json(temporary, {"machine": machine(), "command": command, "races": tables})


def draw(path: Path, tables: dict[str, list[dict]]) -> None:
    """Tokens per second as bars, a panel a race."""
    import matplotlib
    from matplotlib.figure import Figure

    from training.loss_plot import COLOURS, STYLE

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 1 + sum(0.4 * len(table) + 0.8 for table in tables.values())), layout="constrained")
        panels = figure.subplots(len(tables), 1, squeeze=False)[:, 0]
        for axes, (title, table) in zip(panels, tables.items(), strict=True):
            measured = [row for row in table if "failure" not in row][::-1]
            speeds = [row["tokens_per_second"] for row in measured]
            ours = [COLOURS[1] if row["name"].startswith("this") else COLOURS[0] for row in measured]
            bars = axes.barh([row["name"] for row in measured], speeds, color=ours)
            axes.bar_label(bars, [f"{speed:,.0f}" for speed in speeds], padding=3)
            axes.set_title(title, loc="left", fontsize=10)
            axes.grid(False)
            axes.set_xlabel("tokens per second")
        with writing_to(path) as temporary:
            figure.savefig(temporary, dpi=150)
