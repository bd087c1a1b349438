"""The picture of loss curves: what stands in it, and the numbers that are drawn."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from logged_runs import make_run
from places import ROOT

from training.loss_plot import perplexity, plot, smooth


def test_the_picture_names_runs_axes_smoothing_and_the_best_point(tmp_path):
    alone, other = make_run(tmp_path / "r$4$"), make_run(tmp_path / "_r8", floor=2.1)
    plot([alone], tmp_path / "one.svg")
    one = (tmp_path / "one.svg").read_text()
    for text in (
        "r$4$",
        "training, exponentially smoothed over 3 points",
        "best validation: loss 2.500, perplexity 12.2 at step 40",
        "loss (nats per token)",
        "perplexity",
        "step",
    ):
        assert f"<!-- {text} -->" in one

    plot([alone, other], tmp_path / "two.svg")
    two = (tmp_path / "two.svg").read_text()
    assert "<!-- r$4$: loss 2.500, perplexity 12.2 at step 40 -->" in two
    assert "<!-- _r8: loss 2.600, perplexity 13.5 at step 40 -->" in two


def test_losses_of_smoothed_labels_are_called_so(tmp_path):
    file = make_run(tmp_path / "run") / "metrics.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()]
    for smoothed in (False, True):
        lines = [
            record | ({"perplexity": None} if smoothed and record["split"] == "train" else {}) for record in records
        ]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        plot([file], tmp_path / "one.svg")
        assert ("<!-- training, of smoothed labels -->" in (tmp_path / "one.svg").read_text()) == smoothed


def test_runs_of_the_same_name_are_told_apart_by_their_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "a" / "run")
    make_run(tmp_path / "b" / "run")
    plot(["a/run", "b/run"], "both.svg")
    picture = Path("both.svg").read_text()
    assert "<!-- a/run: " in picture
    assert "<!-- b/run: " in picture


@pytest.mark.parametrize("count", [7, 8, 12])
def test_every_run_has_a_colour_of_its_own(tmp_path, count):
    from training.loss_plot import _colours

    assert len({str(colour) for colour in _colours(count)}) == count


def test_smoothing_starts_at_the_first_loss_and_weighs_as_computed_by_hand():
    # A span of 3 halves every older weight: (2), (1*2 + 2*5) / 3, (1*2 + 2*5 + 4*1) / 7
    np.testing.assert_allclose(smooth(np.array([2.0, 5.0, 1.0]), 3), [2.0, 4.0, 16 / 7])
    np.testing.assert_array_equal(smooth(np.array([2.0, 5.0, 1.0]), 1), [2.0, 5.0, 1.0])
    np.testing.assert_allclose(smooth(np.array([np.nan, 2.0, np.nan, 5.0]), 3), [np.nan, 2.0, np.nan, 4.0])


@pytest.mark.parametrize(
    ("loss", "text"),
    [
        (0.0, "1.00"),
        (2.0, "7.39"),
        (4.6049, "100"),  # 99.97
        (8.0, "2,981"),
        (20.0, "4.85e+08"),
        (1e9, "1.01e+304"),  # as far as it goes
    ],
)
def test_perplexity_is_written_in_few_digits(loss, text):
    assert perplexity(loss) == text


def test_matplotlib_is_imported_only_to_draw_and_without_pyplot(tmp_path):
    make_run(tmp_path / "run")
    program = """
import sys
from training.loss_plot import plot
assert "matplotlib" not in sys.modules
plot(["run"], "loss.png")
assert "matplotlib.pyplot" not in sys.modules
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
