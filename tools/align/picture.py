"""The picture: both curves without dropout, how far apart they are, and both curves with dropout."""

from pathlib import Path

import numpy as np

from common.files import writing_to
from tools.align.race import OURS, THEIRS
from tools.align.report import BOUND, Phase
from training.loss_plot import COLOURS, RAW, STYLE, smooth, smoothing_span

COLOUR = {OURS: COLOURS[1], THEIRS: COLOURS[0]}  # as in benchmarks' bars
FLOOR = 1e-9  # where an update whose losses are equal to the last bit is drawn


def draw(path: Path, still: Phase, dropped: Phase, title: str) -> None:
    """Writes a PNG. `still` is without dropout, `dropped` with it."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 9), layout="constrained")
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
        together, apart, masked = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2, 3))
        _curves(together, still)
        together.set_title("without dropout: one curve lies on the other", loc="left", fontsize=10)
        _differences(apart, still)
        _smoothed(masked, dropped)
        masked.set_title("with dropout, each its own masks", loc="left", fontsize=10)
        masked.set_xlabel("update")
        masked.xaxis.set_major_locator(MaxNLocator(integer=True))
        with writing_to(path) as temporary:
            figure.savefig(temporary, dpi=100, format="png")


def _curves(axes, phase: Phase) -> None:
    """PyTorch's line, wide and pale, under ours; validations as rings and dots."""
    theirs, ours = {"linewidth": 4, "alpha": 0.4}, {"linewidth": 1}
    for name, log, line, mark in (
        (THEIRS, phase.theirs, theirs, {"marker": "o", "markersize": 9, "fillstyle": "none"}),
        (OURS, phase.ours, ours, {"marker": "o", "markersize": 4}),
    ):
        losses = log.column("loss")
        axes.plot(np.arange(1, len(losses) + 1), losses, color=COLOUR[name], label=name, **line)
        steps = sorted(log.validation)
        values = [log.validation[step] for step in steps]
        axes.plot(steps, values, color=COLOUR[name], linestyle="none", label=f"{name}, validation", zorder=3, **mark)
    axes.set_ylabel("loss (nats per token)")
    axes.legend()


def _differences(axes, phase: Phase) -> None:
    sizes = np.maximum(np.abs(phase.differences), FLOOR)
    label = f"|difference|; equal to the last bit: {FLOOR:.0e}"
    axes.semilogy(np.arange(1, len(sizes) + 1), sizes, color=COLOURS[2], linewidth=0.8, label=label)
    axes.axhline(BOUND, color=COLOURS[6], linestyle="--", linewidth=1, label=f"the bound, {BOUND:.0e}")
    axes.set_ylim(FLOOR, max(1e-2, 3 * float(sizes[np.isfinite(sizes)].max(initial=0.0))))
    axes.yaxis.set_major_formatter(lambda size, _: f"{size:.0e}")
    axes.set_ylabel("|difference| (nats)")
    axes.legend(loc="center right", bbox_to_anchor=(1, 0.72))  # between the bound and where differences lie


def _smoothed(axes, phase: Phase) -> None:
    for name, log in ((THEIRS, phase.theirs), (OURS, phase.ours)):
        losses = np.array(log.column("loss"))
        steps, span = np.arange(1, len(losses) + 1), smoothing_span(len(losses))
        axes.plot(steps, losses, color=COLOUR[name], **RAW)
        label = f"{name}, smoothed over {span} updates" if span > 1 else name
        axes.plot(steps, smooth(losses, span), color=COLOUR[name], linewidth=1.9, label=label)
        marks = sorted(log.validation)
        values = [log.validation[step] for step in marks]
        line = {"linestyle": "--", "marker": "o", "markersize": 4, "linewidth": 1.2}
        axes.plot(marks, values, color=COLOUR[name], label=f"{name}, validation", **line)
    axes.set_ylabel("loss (nats per token)")
    axes.legend()
