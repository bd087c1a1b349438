"""Where what is written ends up: files, links, devices and pipes that the user names, and links in others' folders."""

import contextlib
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import tiny
from commands import assert_one_line_error, command, train
from places import ROOT

from common.errors import UserError
from common.files import replacing, write_json, write_text, writing_to
from common.lock import LOCK, locked

METRICS = '{"step": 1, "split": "train", "loss": 1.5}\n{"step": 2, "split": "train", "loss": 1.25}\n'
KEPT = "what nobody may touch\n"


def write(path: Path, text: str) -> None:
    with writing_to(path) as temporary:
        temporary.write_text(text)


@contextlib.contextmanager
def read_from(fifo: Path):
    """What comes out of a FIFO while the block runs."""
    found = []
    reader = threading.Thread(target=lambda: found.append(fifo.read_text()), daemon=True)
    reader.start()
    yield found
    reader.join(30)


def test_a_named_file_is_replaced_as_a_whole_and_stays_where_writing_fails(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text(KEPT)
    before = file.stat().st_ino
    with pytest.raises(ZeroDivisionError), writing_to(file) as temporary:
        temporary.write_text("half")
        1 / 0  # noqa: B018
    assert file.read_text() == KEPT and list(tmp_path.iterdir()) == [file]
    write(file, "new")
    assert file.read_text() == "new" and file.stat().st_ino != before and list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("there", [True, False], ids=["to a file", "to nothing yet"])
@pytest.mark.parametrize("steps", [1, 3])
def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path, steps, there):
    end = tmp_path / "deep" / "end.txt"
    end.parent.mkdir()
    if there:
        end.write_text(KEPT)
    links = [tmp_path / f"link{step}" for step in range(steps)]
    for link, target in zip(links, [*(link.name for link in links[1:]), "deep/end.txt"], strict=True):
        link.symlink_to(target)
    write(links[0], "new")
    assert all(link.is_symlink() for link in links) and end.read_text() == "new" and not end.is_symlink()
    assert [path.name for path in end.parent.iterdir()] == ["end.txt"]


def test_links_that_lead_to_themselves_are_told(tmp_path):
    for name, target in (("a", "b"), ("b", "a"), ("self", "self")):
        (tmp_path / name).symlink_to(target)
    for name in ("a", "self"):
        with pytest.raises(UserError, match=f"{tmp_path / name}.*link that leads to itself"):
            write(tmp_path / name, "new")
        assert (tmp_path / name).is_symlink()


def test_a_fifo_is_written_into_once_all_is_there_and_not_at_all_where_writing_fails(tmp_path):
    fifo, link = tmp_path / "fifo", tmp_path / "link"
    os.mkfifo(fifo)
    link.symlink_to(fifo)
    with pytest.raises(ZeroDivisionError), writing_to(fifo) as temporary:  # nobody reads: it would wait for ever
        temporary.write_text("half")
        1 / 0  # noqa: B018
    for path in (fifo, link):
        with read_from(fifo) as found:
            write(path, "new\n" * 50_000)
        assert found == ["new\n" * 50_000] and stat.S_ISFIFO(fifo.stat().st_mode)
    assert sorted(tmp_path.iterdir()) == [fifo, link]


def test_a_device_is_written_into_and_stays_a_device(tmp_path):
    null = tmp_path / "null"
    try:
        os.mknod(null, 0o666 | stat.S_IFCHR, os.makedev(1, 3))  # as /dev/null, which a fault would take away for all
        null.open("wb").close()
    except PermissionError:
        pytest.skip("making a device takes root, on a file system that knows them")
    (tmp_path / "link").symlink_to(null)
    for path in (null, tmp_path / "link"):
        write(path, "new")
        assert stat.S_ISCHR(null.stat().st_mode)


PROGRAM = """
from pathlib import Path
from common.files import writing_to
print("before")
with writing_to({path!r}) as temporary:
    temporary.write_text("written\\n")
print("after")
"""


@pytest.mark.parametrize("path", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
@pytest.mark.parametrize("kind", ["a pipe", "a file"])
def test_ones_own_streams_are_written_into_where_they_stand(tmp_path, path, kind):
    line, root = [sys.executable, "-c", PROGRAM.format(path=path)], ROOT
    file = tmp_path / "out"
    with file.open("wb") as opened:
        where = subprocess.PIPE if kind == "a pipe" else opened
        ended = subprocess.run(line, cwd=root, stdout=where, stderr=subprocess.PIPE, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    said = file.read_bytes() if kind == "a file" else ended.stdout
    assert said == b"before\nwritten\nafter\n"


def test_what_a_run_keeps_takes_the_place_of_a_link_and_leaves_alone_what_it_led_to(tmp_path):
    outside, link = tmp_path / "outside", tmp_path / "run" / "adapter_config.json"
    outside.write_text(KEPT)
    link.parent.mkdir()
    link.symlink_to(outside)
    write_json(link, {"a": 1})
    assert outside.read_text() == KEPT and not link.is_symlink()
    with replacing(link) as temporary:
        temporary.write_text("b")
    assert link.read_text() == "b"


def test_names_that_are_not_utf8_can_be_written_about(tmp_path):
    name = os.fsdecode(b"caf\xff")
    write_text(tmp_path / "a", name)
    write_json(tmp_path / "b", {"folder": name})
    assert (tmp_path / "a").read_text() == r"caf\udcff"
    import json

    assert json.loads((tmp_path / "b").read_text()) == {"folder": name}


# what a stranger's folder may hold in the place of its own files
def link_out(path: Path, outside: Path) -> None:
    path.symlink_to(outside)


def link_out_by_steps(path: Path, outside: Path) -> None:
    (path.parent / "step").symlink_to(outside)
    path.symlink_to("step")


def dangling(path: Path, outside: Path) -> None:
    path.symlink_to(outside.with_name("not-there"))


def fifo(path: Path, outside: Path) -> None:
    os.mkfifo(path)


def loop(path: Path, outside: Path) -> None:
    path.symlink_to(path.name)


FOREIGN = [link_out, link_out_by_steps, dangling, fifo, loop]
PARTS = [
    *(".lock", "adapter_config.json", "adapter_model.safetensors", "arguments.yaml", "metrics.jsonl", "README.md"),
    *("loss.png", "tokenizer.json", "merges.txt", "checkpoint-2", "checkpoint-2/manifest.json", "model.safetensors"),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("files")
    return tiny.model_folder(root / "model", seed=1), tiny.dialogue_folder(root / "data", seed=2)


def run_folder(folder: Path, world) -> Path:
    """As much of a run as is looked at before anything is read of it."""
    from training.arguments import TrainingArguments

    model, data = world
    (folder / "checkpoint-2").mkdir(parents=True)
    given = {"model": str(model), "data_dir": str(data), "output_dir": str(folder), "max_steps": 2, "max_length": 60}
    TrainingArguments(**given).save(folder / "arguments.yaml")
    (folder / "metrics.jsonl").write_text(METRICS)
    return folder


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("put", FOREIGN, ids=lambda put: put.__name__)
def test_a_folder_with_a_part_that_lies_elsewhere_is_no_run_to_go_on_with(tmp_path, world, put, name):
    import train

    run, outside = run_folder(tmp_path / "run", world), tmp_path / "outside"
    outside.write_text(KEPT)
    part = run / name
    if part.is_dir():
        part.rmdir()
    part.unlink(missing_ok=True)
    put(part, outside)
    for before in (None, "a run"):
        with pytest.raises(UserError, match=f"{part}|holds a run already"):
            train.check_folder(run, before)
    assert outside.read_text() == KEPT


@pytest.mark.parametrize("put", [*FOREIGN, lambda path, outside: path.hardlink_to(outside)])
def test_a_lock_that_is_another_file_is_refused_at_once_and_the_file_left_alone(tmp_path, put):
    outside = tmp_path / "outside"
    outside.write_text(KEPT)
    (tmp_path / "run").mkdir()
    put(tmp_path / "run" / LOCK, outside)
    with pytest.raises(UserError, match=f"{tmp_path / 'run' / LOCK} .*remove it"), locked(tmp_path / "run"):
        raise AssertionError("it is held")
    assert outside.read_text() == KEPT and os.path.lexists(tmp_path / "run" / LOCK)


def test_links_within_a_runs_folder_and_the_folder_itself_as_a_link_are_nothing_to_refuse(tmp_path, world):
    import train

    run = run_folder(tmp_path / "run", world)
    (run / "newest.json").symlink_to("checkpoint-2")
    (run / "notes").symlink_to(tmp_path)  # nothing that a run reads or writes
    (tmp_path / "link").symlink_to(run)
    train.check_folder(tmp_path / "link", "a run")


def test_resuming_in_a_strangers_folder_is_one_line_and_touches_nothing_outside(tmp_path, world):
    run, outside = run_folder(tmp_path / "run", world), tmp_path / "outside"
    outside.write_text(KEPT)
    (run / ".lock").symlink_to(outside)
    assert_one_line_error(command("train.py", "--output-dir", run, "--resume"), run / ".lock", outside, "link")
    assert outside.read_text() == KEPT


def test_a_new_run_in_a_folder_of_links_is_one_line(tmp_path, world):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "README.md").symlink_to(tmp_path / "outside")
    assert_one_line_error(command(*train(tmp_path / "run", *world)), "README.md", "link")
    assert not (tmp_path / "outside").exists()


def test_a_picture_goes_through_a_link_that_was_named_and_not_through_one_that_was_found(tmp_path):
    run, outside = tmp_path / "run", tmp_path / "outside.png"
    run.mkdir()
    outside.write_text(KEPT)
    (run / "metrics.jsonl").write_text(METRICS)
    (run / "loss.png").symlink_to(outside)
    assert_one_line_error(command("plot_loss.py", run), run / "loss.png", "link")
    assert outside.read_text() == KEPT
    outside.unlink()
    assert_one_line_error(command("plot_loss.py", run), run / "loss.png", "link")
    assert command("plot_loss.py", run, "--output", run / "loss.png").returncode == 0
    assert outside.read_bytes().startswith(b"\x89PNG") and (run / "loss.png").is_symlink()


def test_a_pipe_in_the_place_of_metrics_is_told_at_once(tmp_path):
    os.mkfifo(tmp_path / "metrics.jsonl")
    assert_one_line_error(command("plot_loss.py", tmp_path), "metrics.jsonl", "no regular file")
