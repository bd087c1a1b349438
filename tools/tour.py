"""Runs docs/tour.ipynb from its first cell to its last, and stores what the cells give: `python -m tools.tour`.

Left out is what is another each time: bars and warnings, which go to stderr, and seconds. A digest of the code is
stored beside the outputs: where it is another, they are not this code's.
"""

import hashlib
import re
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from common.command import Parser, run_command
from common.errors import UserError
from common.files import write_text

TOUR = Path(__file__).resolve().parents[1] / "docs" / "tour.ipynb"
SECONDS = 900  # for a cell: on a new machine the first one waits for Jittor's core to be compiled
DIGEST = "code_sha256"  # in the notebook's metadata
FORECAST = re.compile(r"^about .* s for .* more updates .*\n", re.MULTILINE)  # a training says it where it takes long


def read(path: Path = TOUR) -> nbformat.NotebookNode:
    """The notebook as it is stored."""
    return nbformat.read(path, as_version=4)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """The cells that are run, in order."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def digest(notebook: nbformat.NotebookNode) -> str:
    """Of the code of all cells, hexadecimal."""
    return hashlib.sha256("\n".join(cell.source for cell in code_cells(notebook)).encode()).hexdigest()


def printed(cell: nbformat.NotebookNode) -> str:
    """All that a cell printed, but for the forecast of a training."""
    texts = [output.text for output in cell.outputs if output.get("name") == "stdout"]
    return FORECAST.sub("", "".join(texts))


def run(notebook: nbformat.NotebookNode, folder: Path = TOUR.parent) -> None:
    """Runs all cells in a new kernel that starts in `folder`, and puts their outputs in the place of those before.

    Raises UserError with the cell's error where one fails.
    """
    client = NotebookClient(notebook, timeout=SECONDS, resources={"metadata": {"path": str(folder)}})
    try:
        client.execute()
    except CellExecutionError as error:
        raise UserError(f"a cell of the notebook fails: {error.ename} {error.evalue}: {error.traceback}") from error
    for cell in code_cells(notebook):
        text = printed(cell)
        results = [output for output in cell.outputs if output.output_type != "stream"]
        cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=text)] * bool(text) + results
        cell.metadata.pop("execution", None)  # times
    notebook.metadata["language_info"] = {"name": "python"}  # not the version that happens to run it
    notebook.metadata[DIGEST] = digest(notebook)


def main() -> None:
    """Runs the notebook and writes it back."""
    Parser(prog="python -m tools.tour", description=__doc__).parse_args()
    notebook = read()
    run(notebook)
    write_text(TOUR, nbformat.writes(notebook) + "\n")
    print(f"wrote {TOUR.name}: {len(code_cells(notebook))} cells, {TOUR.stat().st_size / 1e3:,.0f} kB")


if __name__ == "__main__":
    run_command(main)
