"""What came out: whether the bound is held, a table in markdown, the replies side by side."""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tools.align.race import OURS, THEIRS, Log

BOUND = 1e-3  # in the loss of each update without dropout, nats: the contract's
TAIL = 10  # with dropout, the last tenth of the updates is compared: a single one says nothing


@dataclass(frozen=True)
class Phase:
    """What both sides did, with or without dropout."""

    ours: Log
    theirs: Log

    @property
    def differences(self) -> np.ndarray:
        """Of each update's loss, ours − theirs, in nats: float64 [steps]."""
        return np.array(self.ours.column("loss")) - np.array(self.theirs.column("loss"))

    @property
    def largest(self) -> tuple[float, int]:
        """The largest |difference|, and the step, from 1, that has it; one that is no number is the largest of all."""
        sizes = np.abs(self.differences)
        sizes = np.where(np.isnan(sizes), np.inf, sizes)
        return float(sizes.max()), int(sizes.argmax()) + 1

    @property
    def is_held(self) -> bool:
        """Whether the losses of every update agree within BOUND."""
        return self.largest[0] <= BOUND

    @property
    def same_replies(self) -> int:
        """How many replies are the same, token for token."""
        return sum(one == other for one, other in zip(self.ours.replies, self.theirs.replies, strict=True))


def verdict(phase: Phase, precision: str) -> str:
    """One line on the bound, which is float32's."""
    size, step = phase.largest
    said = f"losses of {len(phase.ours.updates):,} updates without dropout differ by {size:.1e} at most (step {step:,})"
    if precision != "fp32":
        return f"{said}; there is no bound in {precision}"
    return f"{'held' if phase.is_held else 'NOT HELD'}: {said}; the bound is {BOUND:.0e} at each step"


def table(still: Phase, dropped: Phase) -> str:
    """Both phases, a row a figure. `still` is without dropout, `dropped` with it."""
    lines = [f"| | {OURS} | {THEIRS} | difference |", "|---|---|---|---|"]
    for title, phase in (("without dropout", still), ("with dropout, each its own masks", dropped)):
        rows = [*_losses(phase, phase is still), *_costs(phase)]
        lines += [f"| **{title}** | | | |", *("| " + " | ".join(row) + " |" for row in rows)]
    return "\n".join(lines)


def _losses(phase: Phase, is_still: bool):
    """Rows of what was computed. Single updates are comparable without dropout alone."""
    ours, theirs = phase.ours, phase.theirs
    if is_still:
        size, step = phase.largest
        yield _row("loss of the first update", ours.column("loss")[0], theirs.column("loss")[0])
        yield _row("loss of the last update", ours.column("loss")[-1], theirs.column("loss")[-1])
        yield "loss of each update", "", "", f"at most {size:.1e}, at step {step:,}"
        yield "gradients' norm of each update", "", "", f"at most {_relative(phase, 'grad_norm'):.1e} of it"
        yield "learning rate of each update", "", "", f"at most {_relative(phase, 'learning_rate'):.1e} of it"
    else:
        tail = math.ceil(len(ours.updates) / TAIL)
        means = [statistics.fmean(log.column("loss")[-tail:]) for log in (ours, theirs)]
        yield _row(f"mean loss of the last {tail:,} updates", *means)
    for step in (0, max(ours.validation)):
        yield _row(f"validation loss, step {step:,}", ours.validation[step], theirs.validation[step])
    if is_still and ours.replies:
        yield "greedy replies", "", "", f"{phase.same_replies} of {len(ours.replies)} identical"


def _costs(phase: Phase):
    """Rows of what it took."""
    sides = phase.ours, phase.theirs
    figures: list[tuple[str, str, Callable[[Log], float]]] = [
        ("seconds an update, median", "{:.4f}", lambda log: log.seconds),
        ("real tokens a second", "{:,.0f}", Log.tokens_per_second),
        ("peak memory, MB", "{:,.0f}", lambda log: log.peak_mb),
    ]
    for title, shape, figure in figures:
        ours, theirs = map(figure, sides)
        yield title, shape.format(ours), shape.format(theirs), f"{ours / theirs:.2f} of it"


def _row(title: str, ours: float, theirs: float) -> tuple[str, str, str, str]:
    return title, f"{ours:.6f}", f"{theirs:.6f}", f"{ours - theirs:+.1e}"


def _relative(phase: Phase, name: str) -> float:
    """The largest difference of a column, as a share of PyTorch's value; one that is 0 on both sides is none."""
    ours, theirs = np.array(phase.ours.column(name)), np.array(phase.theirs.column(name))
    return float(np.max(np.divide(np.abs(ours - theirs), theirs, out=np.abs(ours - theirs), where=theirs != 0)))


def replies(phase: Phase, text_of: Callable[[list[int]], str], prompts: list[list[int]]) -> str:
    """Prompts and what both sides answer, as a list; one answer where both are the same."""
    lines = []
    for prompt, ours, theirs in zip(prompts, phase.ours.replies, phase.theirs.replies, strict=True):
        lines.append(f"- {_quoted(text_of(prompt))}")
        if ours == theirs:
            lines.append(f"  - both: {_quoted(text_of(ours))}")
        else:
            lines += [f"  - {name}: {_quoted(text_of(ids))}" for name, ids in ((OURS, ours), (THEIRS, theirs))]
    return "\n".join(lines)


def _quoted(text: str) -> str:
    """In one line, as code, which no character of it can end."""
    return f"`{' '.join(text.split()).replace('`', chr(39))[-160:]}`"
