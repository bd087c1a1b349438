"""`plot_loss.py` as its users run it, and the values that it reads against hand-written ones."""

import json
import math
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from places import ROOT

from common.errors import UserError
from training.loss_plot import perplexity, plot, smooth
from training.metrics_log import read_run


@pytest.fixture(scope="module", autouse=True)
def font_cache():
    """Has matplotlib list the fonts now: it says so on stderr where its first import is slow."""
    import matplotlib.font_manager  # noqa: F401


def plot_loss(*arguments, cwd):
    command = [sys.executable, ROOT / "plot_loss.py", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


def line(step, split, loss):
    return json.dumps({"step": step, "epoch": 0.5, "split": split, "loss": loss, "tokens": 512})


def make_run(folder, steps=60, floor=2.0):
    """A run whose best validation is at step 40: floor + 0.5."""
    folder.mkdir(parents=True)
    lines = []
    for step in range(1, steps + 1):
        lines.append(line(step, "train", floor + 2 * math.exp(-step / 15)))
        if step % 20 == 0:
            lines.append(line(step, "validation", floor + 0.5 + abs(step - 40) / 100))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def png_size(path):
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert content[-12:] == b"\0\0\0\0IEND\xaeB`\x82"
    return struct.unpack(">II", content[16:24])


def files(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ["run", "你好"])  # of the second the picture's font has no glyphs
def test_a_runs_picture_lies_with_the_run(tmp_path, name):
    run = make_run(tmp_path / name)
    done = plot_loss(name, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"wrote {name}/loss.png\n", "")
    assert png_size(run / "loss.png") == (1200, 750)
    assert files(run) == ["loss.png", "metrics.jsonl"]
    assert files(tmp_path) == [name]


def test_a_metrics_file_is_taken_like_its_folder(tmp_path):
    run = make_run(tmp_path / "run")
    assert plot_loss("metrics.jsonl", cwd=run).stdout == "wrote loss.png\n"
    assert files(run) == ["loss.png", "metrics.jsonl"]
    assert read_run(run / "metrics.jsonl").name == read_run(run).name == "run"


def test_several_runs_go_into_one_picture_in_the_current_folder(tmp_path):
    runs = [make_run(tmp_path / name, floor=2 + i / 10) for i, name in enumerate("abc")]
    done = plot_loss(*runs, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "wrote loss.png\n", "")
    width, height = png_size(tmp_path / "loss.png")
    assert width == 1200
    assert height > 750  # the names stand below the axes


def test_a_text_logs_picture_goes_where_it_is_told_and_the_folder_is_made(tmp_path):
    (tmp_path / "torch.txt").write_text("3.0\n2.5\n2.25\n")
    done = plot_loss("torch.txt", "--output", "figures/torch.png", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    png_size(tmp_path / "figures" / "torch.png")
    assert files(tmp_path / "figures") == ["torch.png"]


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


def test_metrics_are_read_as_written(tmp_path):
    lines = [
        line(1, "train", 3.5),
        line(2, "train", 3.25),
        line(2, "validation", 3.4),
        "",
        line(3, "train", 3),
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    run = read_run(tmp_path)
    assert run.training.steps.tolist() == [1, 2, 3]
    assert run.training.losses.tolist() == [3.5, 3.25, 3.0]
    assert run.validation.steps.tolist() == [2]
    assert run.validation.best == (2, 3.4)


def test_a_validation_of_more_examples_than_the_others_is_no_point_of_their_curve(tmp_path):
    counted = [(0, 5.0, 50), (10, 4.0, 50), (20, 4.5, 50), (10, 3.0, 900)]
    lines = [line(step, "validation", loss)[:-1] + f', "examples": {count}}}' for step, loss, count in counted]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    curve = read_run(tmp_path).validation
    assert curve.steps.tolist() == [0, 10, 20] and curve.losses.tolist() == [5.0, 4.0, 4.5]


def test_a_last_line_that_was_cut_is_left_out(tmp_path):
    whole = line(1, "train", 3.5) + "\n"
    for cut in ('{"step": 2, "spl', '{"step": 2, "name": "\udcc3', "\0\0\0"):
        (tmp_path / "metrics.jsonl").write_text(whole + cut, errors="surrogateescape")
        assert read_run(tmp_path).training.losses.tolist() == [3.5]


def test_steps_that_a_resumed_run_repeats_count_as_last_written(tmp_path):
    lines = [line(step, "train", 3.0) for step in (1, 2, 3, 4)] + [line(step, "train", 2.0) for step in (3, 4, 5)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    training = read_run(tmp_path).training
    assert training.steps.tolist() == [1, 2, 3, 4, 5]
    assert training.losses.tolist() == [3.0, 3.0, 2.0, 2.0, 2.0]


def test_losses_that_are_not_finite_leave_a_gap(tmp_path):
    lines = [line(i, "validation", loss) for i, loss in enumerate([2.0, math.nan, 1.5, math.inf, 1.75, -1e308])]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    run = read_run(tmp_path)
    assert np.isnan(run.validation.losses).tolist() == [False, True, False, True, False, True]
    assert run.validation.best == (2, 1.5)
    plot([tmp_path], tmp_path / "loss.png")
    png_size(tmp_path / "loss.png")


@pytest.mark.parametrize(
    ("text", "steps", "losses"),
    [
        ("3.5\n3.25\n\n3\n", [1, 2, 3], [3.5, 3.25, 3.0]),
        ("loss\n3.5\n2e-1", [1, 2], [3.5, 0.2]),
        ("# notes, any: 1 2 3\nstep,loss\n10,3.5\n20, 3.25\n", [10, 20], [3.5, 3.25]),
        ("step\tloss\r\n10\t3.5\r\n# later\r\n20\t3.25\r\n", [10, 20], [3.5, 3.25]),
        ("\ufeff  10   3.5  \n20 3.25", [10, 20], [3.5, 3.25]),
        ("0 0.0\n1 0.5\n", [0, 1], [0.0, 0.5]),
    ],
)
def test_text_logs_are_read_as_written(tmp_path, text, steps, losses):
    log = tmp_path / "torch.txt"
    log.write_text(text, encoding="utf-8", newline="")
    run = read_run(log)
    assert run.name == "torch"
    assert run.validation is None
    assert run.training.steps.tolist() == steps
    assert run.training.losses.tolist() == losses


GOOD = line(1, "train", 3.5)


@pytest.mark.parametrize(
    ("name", "text", "where"),
    [
        ("metrics.jsonl", f"{GOOD}\nstep 2\n{GOOD}\n", "metrics.jsonl:2 is not JSON"),
        ("metrics.jsonl", f'{GOOD}\n{{"step": 2, "spl\n', "metrics.jsonl:2 is not JSON"),
        ("metrics.jsonl", f"{GOOD}\n[1]\n", "metrics.jsonl:2 needs"),
        ("metrics.jsonl", line(1, "test", 3.5), "metrics.jsonl:1 needs"),
        ("metrics.jsonl", line(1.5, "train", 3.5), "metrics.jsonl:1 needs"),
        ("metrics.jsonl", line(-1, "train", 3.5), "metrics.jsonl:1 needs"),
        ("metrics.jsonl", line(10**400, "train", 3.5), "metrics.jsonl:1 needs"),
        ("metrics.jsonl", line(True, "train", 3.5), "metrics.jsonl:1 needs"),
        ("metrics.jsonl", line(1, ["train"], 3.5), "metrics.jsonl:1 needs"),
        ("metrics.jsonl", line(1, "train", "3.5"), "metrics.jsonl:1 needs"),
        ("metrics.jsonl", line(1, "train", None), "metrics.jsonl:1 needs"),
        ("metrics.jsonl", "[" * 100_000 + "\n\n", "metrics.jsonl:1 is not JSON"),
        ("metrics.jsonl", "", "holds no finite loss"),
        ("metrics.jsonl", line(1, "train", math.nan), "holds no finite loss"),
        ("log.txt", "", "holds no finite loss"),
        ("log.txt", "step loss\n", "holds no finite loss"),
        ("log.txt", "3.5\nepoch two\n", "log.txt:2 should hold"),
        ("log.txt", "loss\nloss\n3.5\n", "log.txt:2 should hold"),
        ("log.txt", "1 3.5\n3.25\n", "log.txt:2 should hold"),
        ("log.txt", "3.5\n2 3.25\n", "log.txt:2 should hold"),
        ("log.txt", "1 2 3.5\n", "log.txt:1 should hold"),
        ("log.txt", "0.5 3.5\n", "log.txt:1 should hold"),
        ("log.txt", "1 3.5\nnan 3.5\n", "log.txt:2 should hold"),
        ("log.txt", "The loss went down nicely\n", "log.txt:1 should hold"),
        ("log.txt", f"{GOOD}\n\n3.5\n", "log.txt:3 needs"),
    ],
)
def test_a_broken_line_is_named(tmp_path, name, text, where):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as caught:
        read_run(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path))
    assert where in str(caught.value)


def make_broken(folder):
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("broken\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: RUN; see --help"),
        (["run", "--colour", "red"], "unrecognized arguments: --colour red; see --help"),
        (["absent"], "absent does not exist; give a run's folder, a metrics.jsonl or a text log"),
        (["empty"], "empty/metrics.jsonl does not exist; give a run's folder, a metrics.jsonl or a text log"),
        (["run", "broken"], "broken/metrics.jsonl:1 is not JSON; mend or remove the line"),
        (
            ["run", "--output", "a.jpg"],
            "the picture must be a .png, .pdf or .svg file, unlike a.jpg; name another",
        ),
        (
            ["run", "--output", "run"],
            "the picture must be a .png, .pdf or .svg file, unlike run; name another",
        ),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_status_2(tmp_path, arguments, message):
    make_run(tmp_path / "run")
    make_broken(tmp_path / "broken")
    (tmp_path / "empty").mkdir()
    done = plot_loss(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {message}\n")
    assert files(tmp_path) == ["broken", "empty", "run"]
    assert files(tmp_path / "run") == ["metrics.jsonl"]


def test_an_output_that_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path):
    make_run(tmp_path / "run")
    (tmp_path / "folder.png").mkdir()
    for output in ("run/metrics.jsonl/loss.png", "folder.png"):
        done = plot_loss("run", "--output", output, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: cannot write {output}: ")
        assert done.stderr.count("\n") == 1
    assert files(tmp_path) == ["folder.png", "run"]


def test_an_earlier_picture_survives_a_run_that_broke(tmp_path):
    make_broken(tmp_path / "run")
    (tmp_path / "run" / "loss.png").write_bytes(b"earlier")
    assert plot_loss("run", cwd=tmp_path).returncode == 2
    assert (tmp_path / "run" / "loss.png").read_bytes() == b"earlier"


def test_help_tells_how_to_use_it(tmp_path):
    done = plot_loss("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "--output FILE.png" in done.stdout


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
