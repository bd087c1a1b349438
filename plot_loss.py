"""Draws the loss curves of trainings as one picture.

python plot_loss.py runs/dailydialog                            # -> runs/dailydialog/loss.png
python plot_loss.py runs/r4 runs/r8 runs/r16 --output ranks.png
python plot_loss.py runs/dailydialog torch-loss.txt             # beside another program's log -> loss.png
"""

import argparse
from pathlib import Path

from common.command import Parser, run_command
from training.folder import check_own
from training.loss_plot import plot
from training.metrics_log import METRICS


def parse_arguments() -> argparse.Namespace:
    """`runs`, and `output` or None."""
    parser = Parser(prog="plot_loss.py", description=__doc__)
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help=f"a run's folder, a {METRICS}, or a text log with a loss or a step and a loss a line",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE.png",
        help="the picture (.png, .pdf or .svg); by default loss.png in the folder of a single run, else here",
    )
    return parser.parse_args()


def default_output(runs: list[Path]) -> Path:
    """A single run's picture lies with the run; that of several, or of a text log, in the current folder."""
    if len(runs) > 1:
        return Path("loss.png")
    if runs[0].is_dir():
        return runs[0] / "loss.png"
    return runs[0].parent / "loss.png" if runs[0].name == METRICS else Path("loss.png")


def main() -> None:
    """Draws the picture and says where it is. Raises UserError for a log that cannot be read."""
    arguments = parse_arguments()
    output = arguments.output or default_output(arguments.runs)
    if not arguments.output:
        check_own(output.parent, [output.name])
    plot(arguments.runs, output)
    print(f"wrote {output}")


if __name__ == "__main__":
    run_command(main)
