"""What is read of a run's metrics and of text logs, against hand-written ones."""

import math

import numpy as np
import pytest
from logged_runs import line, png_size

from common.errors import UserError
from training.curves import read_run
from training.loss_plot import plot


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
