"""`plot_loss.py` as its users run it."""

import subprocess
import sys

import pytest
from logged_runs import make_run, png_size
from places import ROOT

from training.curves import read_run


@pytest.fixture(scope="module", autouse=True)
def font_cache():
    """Has matplotlib list the fonts now: it says so on stderr where its first import is slow."""
    import matplotlib.font_manager  # noqa: F401


def plot_loss(*arguments, cwd):
    command = [sys.executable, ROOT / "plot_loss.py", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


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
