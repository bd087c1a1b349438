"""docs/tour.ipynb runs from top to bottom, and its stored outputs are those of its code.

What it shows it asserts itself: a layer beside LoRA's formula, a loss that falls, logits beside transformers and PEFT.
"""

import copy
import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from common.errors import UserError
from tools import tour


@pytest.fixture(scope="module")
def stored():
    return tour.read()


@pytest.fixture(scope="module")
def fresh(stored):
    """The notebook with what its cells give now."""
    notebook = copy.deepcopy(stored)
    for cell in tour.code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    tour.run(notebook)
    return notebook


def kinds(notebook) -> list[list[str]]:
    """Of each cell's outputs."""
    return [[output.output_type for output in cell.outputs] for cell in tour.code_cells(notebook)]


def losses(notebook) -> list[float]:
    """The validation's before training and the best."""
    (said,) = re.findall(r"^validation loss (.*) -> (.*)$", all_printed(notebook), re.MULTILINE)
    return [float(loss) for loss in said]


def all_printed(notebook) -> str:
    return "".join(tour.printed(cell) for cell in tour.code_cells(notebook))


def test_the_stored_outputs_are_those_of_the_stored_code(stored):
    nbformat.validate(stored)
    assert stored.metadata[tour.DIGEST] == tour.digest(stored), "run `python -m tools.tour` once more"
    cells = tour.code_cells(stored)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    changed = copy.deepcopy(stored)
    tour.code_cells(changed)[3].source += "\n"
    assert tour.digest(changed) != stored.metadata[tour.DIGEST]


def test_the_stored_outputs_are_small_and_name_no_machine(stored):
    assert tour.TOUR.stat().st_size < 300_000
    pictures = [cell for cell in tour.code_cells(stored) if any("image/png" in o.get("data", {}) for o in cell.outputs)]
    assert len(pictures) == 1
    told = all_printed(stored) + "".join(cell.source for cell in stored.cells)
    assert not re.findall(r"(?<![\w.])/(?:home|root|tmp|work|usr|var|opt)\b", told)


def test_all_cells_run_and_give_what_is_stored(stored, fresh):
    assert kinds(fresh) == kinds(stored)
    before, after = losses(fresh)
    assert after < before - 0.5
    assert [before, after] == pytest.approx(losses(stored), rel=0.02)  # other processors round otherwise


def test_the_logits_are_compared_with_pytorchs(fresh):
    last = tour.code_cells(fresh)[-1]
    found = re.findall(
        r"^transformers(?: \+ PEFT|, merged): largest difference (.*)$", last.outputs[0].text, re.MULTILINE
    )
    assert len(found) == 2 and all(float(difference) < 1e-3 for difference in found)
    assert last.source.count("assert ") == 2


def test_a_cell_that_fails_is_told(tmp_path):
    notebook = new_notebook(cells=[new_code_cell("print('here')"), new_code_cell("assert 1 == 2, 'no'")])
    with pytest.raises(UserError, match="AssertionError no"):
        tour.run(notebook, tmp_path)
