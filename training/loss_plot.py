"""Loss curves, drawn as one picture that can go into a report.

Losses are in nats per token, and the axis on the right reads the same heights as perplexity. Several runs
are overlaid, a colour each, with their best points named below. matplotlib is imported only where a picture
is drawn, and without pyplot: no window, no state left behind in a training's process.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from common.files import check_picture, writing_to
from common.terminal import visible
from training.curves import Run, read_run

# Okabe and Ito's colours, distinct for colour-blind readers too: https://jfly.uni-koeln.de/color/
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
SMOOTHED_SHARE = 20  # the moving average spans 1/20 of a run's points: calm, yet no turn is hidden
RAW = {"linewidth": 0.8, "alpha": 0.3}
SMOOTHED = {"linewidth": 1.9, "zorder": 3}
VALIDATION = {"linewidth": 1.4, "linestyle": "--", "marker": "o", "markersize": 4, "zorder": 4}
BEST = {"linestyle": "none", "marker": "*", "markersize": 14, "markeredgecolor": "white", "zorder": 5}
STYLE = {
    "text.parse_math": False,  # a run may be called a$b$
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "0.6",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.92",
    "xtick.color": "0.35",
    "ytick.color": "0.35",
    "legend.frameon": False,
    "legend.title_fontsize": 11,
    "legend.fontsize": 9,
}


def plot(runs: Sequence[str | Path], output: str | Path) -> None:
    """Draws the losses of runs (folders, metrics files or text logs) into `output`, which is whole or absent.

    Raises UserError for a run that is missing, broken or empty, and for an output that cannot be written.
    """
    output = Path(output)
    check_picture(output)
    histories = [replace(run, name=visible(run.name)) for run in _named_apart([read_run(path) for path in runs], runs)]
    with writing_to(output) as temporary:
        _draw(histories, temporary)


def smoothing_span(points: int) -> int:
    """How many points the drawn moving average spans; 1 is no smoothing."""
    return max(1, points // SMOOTHED_SHARE)


def smooth(losses: np.ndarray, span: int) -> np.ndarray:
    """The exponential moving average, [points] -> [points], with a weight of 2 / (span + 1) for the newest.

    Divided by the sum of the weights so far, as Adam's averages are, so that it starts at the first loss and
    not at 0. Points that are NaN stay NaN and leave the average as it was.
    """
    decay = 1 - 2 / (span + 1)
    total, weight = 0.0, 0.0
    averages = np.full(len(losses), np.nan)
    for i in np.flatnonzero(~np.isnan(losses)):
        total = decay * total + (1 - decay) * losses[i]
        weight = decay * weight + (1 - decay)
        averages[i] = total / weight
    return averages


def perplexity(loss: float) -> str:
    """exp(loss) in three digits, and as a whole number from 100 to a million."""
    value = math.exp(min(loss, 700))  # exp(710) is beyond a float
    if 99.95 <= value < 1e6:
        return f"{value:,.0f}"
    return f"{value:#.3g}"


def _draw(runs: list[Run], path: Path) -> None:
    import matplotlib
    from matplotlib.figure import Figure

    alone = len(runs) == 1
    names_height = 0 if alone else 0.2 * (len(runs) + 1)  # inches, below the axes
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # in a run's name: nothing that the user could mend
        figure = Figure(figsize=(8, 5 + names_height), layout="constrained")
        axes = figure.add_subplot()
        for run, colour in zip(runs, _colours(len(runs)), strict=True):
            _draw_training(axes, run, colour)
            _draw_validation(axes, run, COLOURS[1] if alone else colour)
        _label_axes(axes)
        # Outside the axes, where no curve can run into them: one that overfits climbs to the upper right.
        keys = _keys(runs, COLOURS[0], COLOURS[1]) if alone else _keys(runs, "0.4", "0.4")
        title = runs[0].name if alone else None
        figure.legend(handles=keys, title=title, alignment="left", loc="outside upper left", ncols=2)
        if not alone:
            figure.legend(handles=_names(runs), loc="outside lower left")
        figure.savefig(path, dpi=150)


def _draw_training(axes, run: Run, colour) -> None:
    if not run.training:
        return
    steps, losses = run.training.steps, run.training.losses
    span = smoothing_span(len(steps))
    if span > 1:
        axes.plot(steps, losses, color=colour, **RAW)
    axes.plot(steps, smooth(losses, span), color=colour, **SMOOTHED)


def _draw_validation(axes, run: Run, colour) -> None:
    if not run.validation:
        return
    axes.plot(run.validation.steps, run.validation.losses, color=colour, **VALIDATION)
    step, loss = run.validation.best
    axes.plot([step], [loss], color=colour, **BEST)


def _keys(runs: list[Run], training_colour: str, validation_colour: str) -> list:
    """What each kind of line and mark that is in the picture means."""
    from matplotlib.lines import Line2D

    keys = []
    training = "training, of smoothed labels" if any(run.smoothed_labels for run in runs) else "training"
    spans = sorted({smoothing_span(len(run.training.steps)) for run in runs if run.training})
    if spans and spans[-1] > 1:
        points = str(spans[0]) if len(spans) == 1 else f"{spans[0]} to {spans[-1]}"
        keys.append(Line2D([], [], color=training_colour, label=training, **RAW))
        label = f"training, exponentially smoothed over {points} points"
        keys.append(Line2D([], [], color=training_colour, label=label, **SMOOTHED))
    elif spans:
        keys.append(Line2D([], [], color=training_colour, label=training, **SMOOTHED))
    if any(run.validation for run in runs):
        best = f"best validation: {_best(runs[0])}" if len(runs) == 1 else "best validation"
        keys.append(Line2D([], [], color=validation_colour, label="validation", **VALIDATION))
        keys.append(Line2D([], [], color=validation_colour, label=best, **BEST))
    return keys


def _names(runs: list[Run]) -> list:
    from matplotlib.lines import Line2D

    keys = []
    for run, colour in zip(runs, _colours(len(runs)), strict=True):
        label = f"{run.name}: {_best(run)}" if run.validation else run.name
        keys.append(Line2D([], [], color=colour, linewidth=4, label=label))
    return keys


def _best(run: Run) -> str:
    step, loss = run.validation.best
    return f"loss {loss:.3f}, perplexity {perplexity(loss)} at step {step:,}"


def _label_axes(axes) -> None:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per token)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    # The same heights, read as exp(loss): a scale of its own would crowd its round numbers at the top.
    right = axes.secondary_yaxis("right")
    right.set_ylabel("perplexity")
    right.yaxis.set_major_formatter(lambda loss, _: perplexity(loss))
    right.spines["right"].set_visible(False)
    right.tick_params(length=0)


def _colours(count: int) -> list:
    import matplotlib

    if count <= len(COLOURS):
        return COLOURS[:count]
    return list(matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, count)))


def _named_apart(runs: list[Run], paths: Sequence[str | Path]) -> list[Run]:
    names = [run.name for run in runs]
    if len(set(names)) == len(names):
        return runs
    return [replace(run, name=str(path)) for run, path in zip(runs, paths, strict=True)]
