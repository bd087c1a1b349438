"""A confusion matrix, drawn as one picture that can go into a report.

Rows are the true classes, columns the predictions. A cell says how many examples it holds and what share of
its row; the colour is that share, so the diagonal reads as each class's recall, and a rare class is as clear
as a frequent one. matplotlib is imported only where a picture is drawn, and without pyplot.
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.files import check_picture, writing_to
from common.terminal import visible

NAME_WIDTH = 24  # characters in a line of a class's name
NAME_LINES = 3
LETTER = 0.65 / 72  # inches that a letter is wide for each point of its size, a generous average
LINE = 0.7  # of a cell's height that a class's name takes beside it
MOST_SIDE = 24  # inches of all cells together, at 150 dots each: memory grows with the square
ROOM = 0.45  # inches of a cell that has room for what it counts
DARKEST = 0.85  # of the colour map: its end is so dark that neighbours look alike
DARK = 0.179  # luminance below which white contrasts more than black, https://www.w3.org/TR/WCAG22/#contrast-minimum
NOT_THERE = "0.93"  # the grey of a row without examples: it has no shares
STYLE = {
    "text.parse_math": False,  # a class may be called a$b$
    "axes.edgecolor": "0.6",
    "xtick.color": "0.2",
    "ytick.color": "0.2",
}


def draw_confusion(matrix: np.ndarray, labels: Sequence[str], output: str | Path, title: str = "") -> None:
    """Draws counts, int [classes, classes] with rows true, into `output`, which is whole or absent.

    Raises UserError for an output that cannot be written, and ValueError where labels and matrix do not fit.
    """
    import matplotlib

    output = Path(output)
    check_picture(output)
    matrix = np.asarray(matrix)
    if len(labels) == 0 or matrix.shape != (len(labels), len(labels)):
        raise ValueError(f"{len(labels)} labels do not fit a matrix of {matrix.shape}")
    with writing_to(output) as temporary, matplotlib.rc_context(STYLE):
        _figure(matrix, labels, title).savefig(temporary, dpi=150, bbox_inches="tight", pad_inches=0.15)


def row_shares(matrix: np.ndarray) -> np.ndarray:
    """Each count / its row's sum, [classes, classes], 0 to 1; NaN in a row without examples."""
    examples = matrix.sum(1, keepdims=True)
    return np.divide(matrix, examples, out=np.full(matrix.shape, np.nan), where=examples > 0)


def _figure(matrix: np.ndarray, labels: Sequence[str], title: str):
    """A matplotlib Figure, as large as the cells alone: saving it "tight" adds what the names need."""
    from matplotlib.figure import Figure

    cell, font, heading = _sizes(len(labels))
    side = cell * len(labels)
    figure = Figure(figsize=(side, side))
    axes = figure.add_axes((0, 0, 1, 1))
    shares = row_shares(matrix)
    colours = _colours(shares)
    axes.imshow(colours, aspect="auto", interpolation="nearest")
    if cell >= ROOM:
        _write_cells(axes, matrix, shares, colours, font)
    _name_classes(axes, matrix, labels, cell, font)
    axes.set_xlabel("predicted class\n(bold: recall of the class)", fontsize=heading, labelpad=8)
    axes.set_ylabel("true class (examples)", fontsize=heading, labelpad=8)
    axes.set_title(_heading(matrix, title, side, heading), fontsize=heading, loc="left", pad=10)
    return figure


def _sizes(classes: int) -> tuple[float, float, float]:
    """A cell's side in inches, and the letters' sizes in cells and in headings, in points.

    Small matrices are roomy; large ones are made smaller to fit a page, so that their headings start larger. However
    many classes there are, the picture stays as large as MOST_SIDE.
    """
    if classes <= 4:
        return 1.3, 12, 11
    if classes <= 10:
        return 0.85, 10, 12
    cell = min(0.55, MOST_SIDE / classes)
    return cell, min(8, cell * 72 * LINE), 16


def _colours(shares: np.ndarray) -> np.ndarray:
    """RGBA [classes, classes, 4] of shares that may be NaN."""
    import matplotlib
    from matplotlib.colors import to_rgba

    colours = matplotlib.colormaps["Blues"](DARKEST * np.nan_to_num(shares))
    colours[np.isnan(shares)] = to_rgba(NOT_THERE)
    return colours


def _write_cells(axes, matrix: np.ndarray, shares: np.ndarray, colours: np.ndarray, font: float) -> None:
    dark = _luminance(colours) < DARK
    for row, column in np.ndindex(matrix.shape):
        count, share = matrix[row, column], shares[row, column]
        recall = row == column and not np.isnan(share)
        text = f"{count:,}\n{share:.1%}" if count or recall else "0"
        colour = "white" if dark[row, column] else "black" if count or recall else "0.5"
        weight = "bold" if recall else "normal"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=font, fontweight=weight)


def _luminance(colours: np.ndarray) -> np.ndarray:
    """WCAG's relative luminance, 0 to 1, of sRGB colours [..., 3 or 4]."""
    rgb = colours[..., :3]
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def _name_classes(axes, matrix: np.ndarray, labels: Sequence[str], cell: float, font: float) -> None:
    names = [_wrapped(label) for label in labels]
    places = np.arange(len(labels))
    axes.set_xticks(places, names, fontsize=font, **_turn(names, cell, font))
    counted = [f"{name} ({count:,})" for name, count in zip(names, matrix.sum(1), strict=True)]
    axes.set_yticks(places, counted, fontsize=font)
    axes.tick_params(length=0)
    axes.set_xticks(places[1:] - 0.5, minor=True)
    axes.set_yticks(places[1:] - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="minor", length=0)


def _wrapped(label: str) -> str:
    """The name in at most NAME_LINES lines of NAME_WIDTH characters, with … where more was cut."""
    lines = textwrap.wrap(visible(str(label)), NAME_WIDTH, max_lines=NAME_LINES, placeholder=" …")
    return "\n".join(lines)


def _turn(names: Sequence[str], cell: float, size: float) -> dict:
    """How names stand under their columns: level where all fit, aslant, and upright where they have several lines."""
    longest = max(len(line) for name in names for line in [*name.split("\n"), ""])
    if longest * LETTER * size < cell:
        return {}
    if any("\n" in name for name in names):
        return {"rotation": 90}
    return {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}


def _heading(matrix: np.ndarray, title: str, width: float, size: float) -> str:
    total = matrix.sum()
    accuracy = f"accuracy {matrix.trace() / total:.1%} of {total:,}" if total else "no examples"
    return "\n".join([*textwrap.wrap(title, max(34, int(width / (LETTER * size)))), accuracy])
