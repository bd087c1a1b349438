"""Disks that fill, folders that cannot be written, files that grow too long: one line, and nothing earlier harmed."""

import contextlib
import resource
import shutil
import subprocess

import pytest

from common.errors import UserError
from tests.faults import ground
from training.arguments import resolve_resumed
from training.setup import build_trainer, read_inputs
from training.trainer import Trainer

SMALL = 12_000  # bytes: an adapter fits into a file of that size, its moments do not


@contextlib.contextmanager
def short_files():
    """The system refuses longer ones meanwhile, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def take_up(run_dir, steps: int) -> Trainer:
    """The trainer of a run that is to go on to `steps`."""
    arguments, _ = resolve_resumed({"max_steps": steps}, run_dir)
    inputs = read_inputs(arguments, say=lambda text: None)
    return build_trainer(inputs, resume=True)


def test_a_file_that_grows_too_long_ends_the_run_with_one_line_and_leaves_what_was_there(
    undisturbed, tmp_path, monkeypatch
):
    monkeypatch.setenv("OMP_NUM_THREADS", ground.THREADS["OMP_NUM_THREADS"])  # what the run is said to have had
    # operators are compiled into files, which must be there before files have to be short
    take_up(shutil.copytree(undisturbed, tmp_path / "rehearsal"), 15).run()
    run_dir = shutil.copytree(undisturbed, tmp_path / "run")
    kept = {name: data for name, data in ground.contents(run_dir).items() if name.startswith("checkpoint-")}
    trainer = take_up(run_dir, 15)
    with short_files(), pytest.raises(UserError, match="checkpoint-14.*File too large; free some space") as caught:
        trainer.run()
    assert "\n" not in str(caught.value)
    after = ground.contents(run_dir)
    assert {name: data for name, data in after.items() if name.startswith("checkpoint-")} == kept
    assert not ground.unfinished(run_dir)
    assert ground.lines_of(run_dir)[-1]["step"] == 14, "the metrics are whole"
    again = take_up(run_dir, 15)
    assert again.resumed_from == run_dir / "checkpoint-12"
    assert again.run().step == 15


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 140 KB: two checkpoints fit, a third beside them does not."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=140k", "tmpfs", folder]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_disk_that_fills_ends_the_run_with_one_line_and_keeps_its_checkpoints(world, small_disk):
    run_dir = small_disk / "run"
    result = ground.command(ground.training(world, run_dir, "--max-steps", 12))
    ground.assert_told(result, 2, run_dir, "No space left on device")
    assert {path.name for path in run_dir.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-4"}
    assert not ground.unfinished(run_dir)
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    resumed = ground.command(["train.py", "--output-dir", run_dir, "--resume"])
    assert resumed.returncode == 0 and f"resuming from {run_dir / 'checkpoint-4'}" in resumed.stdout, resumed.stderr
    before = ground.contents(run_dir)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    resume = ["train.py", "--output-dir", run_dir, "--resume", "--max-steps", 15]
    ground.assert_told(ground.command(resume), 2, run_dir, "Read-only file system", "--output-dir")
    assert ground.contents(run_dir) == before
