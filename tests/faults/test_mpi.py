"""Several processes under `mpirun`: the numbers of one, one writer, and the end of all where one ends."""

import functools
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny
from open_mpi import MPIRUN, SETTINGS
from places import ROOT

from gpt2_jittor.runtime import runtime
from tests.faults import ground
from training.checkpoint import check_manifest

SBATCH = ROOT / "tools" / "slurm" / "train.sbatch"
pytestmark = [pytest.mark.mpi, pytest.mark.skipif(MPIRUN is None, reason=f"no mpirun: {runtime.INSTALL_MPI}")]


@pytest.fixture(scope="module")
def still(tmp_path_factory):
    return tiny.still_world(tmp_path_factory.mktemp("still"))


@pytest.fixture(scope="module")
def undisturbed_by(world, tmp_path_factory):
    """By a number of processes, the folder of their run of 12 steps, with dropout."""

    @functools.cache
    def folder(processes: int) -> Path:
        run_dir = tmp_path_factory.mktemp("several") / "run"
        result = together(ground.training(world, run_dir, "--max-steps", 12), processes).finish()
        assert result.returncode == 0, result.stderr
        return run_dir

    return folder


@pytest.fixture(scope="module")
def undisturbed_by_two(undisturbed_by):
    return undisturbed_by(2)


def together(arguments: list, processes: int = 2) -> ground.Running:
    return ground.Running(arguments, launcher=[MPIRUN, "-np", str(processes)], **SETTINGS)


def processes_of(run_dir: Path) -> dict[int, int]:
    """The processes of the run that writes there, by their numbers in it."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                told = (entry / "environ").read_bytes().split(b"\0"), (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            ranks = [value for value in told[0] if value.startswith(b"OMPI_COMM_WORLD_RANK=")]
            if ranks and str(run_dir).encode() in told[1]:
                found[int(ranks[0].partition(b"=")[2])] = int(entry.name)
    return found


def losses(run_dir: Path, split: str) -> list[float]:
    return [line["loss"] for line in ground.lines_of(run_dir) if line["split"] == split]


@pytest.mark.parametrize(
    "processes, steps, settings",
    # of 21 dialogues the last batch of an epoch has one: nothing for the second process
    [
        (2, 30, ["--batch-size", 4]),
        (3, 6, ["--batch-size", 2]),
        (2, 6, ["--tuning", "full", "--learning-rate", 1e-3]),
        (2, 6, ["--task", "emotion", "--data-dir", "sample"]),
    ],
    ids=["30 steps", "more processes than rows", "every weight", "classes"],
)
def test_several_processes_make_the_losses_of_one(still, tmp_path, processes, steps, settings):
    lora = [] if "full" in settings else ["--lora-dropout", 0]
    given = [*settings, *lora, "--max-steps", steps]
    arguments = [ground.training(still, tmp_path / name, *given) for name in ("one", "several")]
    if "full" in settings:
        for line in arguments:
            del line[line.index("--lora-r") : line.index("--lora-r") + 2]
    ends = ground.command(arguments[0]), together(arguments[1], processes).finish()
    assert [end.returncode for end in ends] == [0, 0], ends[1].stderr
    for split, count in (("train", steps), ("validation", steps // 3 + 1)):
        one, several = (losses(tmp_path / name, split) for name in ("one", "several"))
        assert len(one) == len(several) == count
        np.testing.assert_allclose(several, one, rtol=1e-4)  # sums in another order, over the steps
        if split == "train":
            print(f"{processes} processes, {steps} steps: {np.max(np.abs(np.array(several) / one - 1)):.1e}")


def test_only_the_first_process_writes_and_speaks(still, undisturbed, undisturbed_by_two, tmp_path):
    names = [set(ground.contents(folder)) for folder in (undisturbed, undisturbed_by_two)]
    assert names[0] == names[1] and not ground.unfinished(undisturbed_by_two)
    steps = [line["step"] for line in ground.lines_of(undisturbed_by_two) if line["split"] == "train"]
    assert steps == list(range(1, 13))
    ended = together(ground.training(still, tmp_path / "run", "--max-steps", 1)).finish()
    assert ended.returncode == 0 and "Traceback" not in ended.stderr
    for once in ("in 2 processes: ", "\nuse it: "):
        assert ended.stdout.count(once) == 1, ended.stdout


@pytest.mark.parametrize("processes", [2, 4])
def test_where_a_process_is_killed_all_end_and_resume_goes_on_to_the_same_end(
    world, undisturbed_by, tmp_path, processes
):
    run_dir = tmp_path / "run"
    running = together(ground.training(world, run_dir, "--max-steps", 12), processes)
    ground.wait_for(lambda: ground.steps_logged(run_dir) >= 5, running)
    started = processes_of(run_dir)
    assert sorted(started) == list(range(processes))
    os.kill(started[processes - 1], signal.SIGKILL)
    begun = time.monotonic()
    ended = running.finish()
    assert time.monotonic() - begun < 30  # nobody waits for the dead one's part of a sum
    assert ended.returncode != 0 and "signal 9" in ended.stderr + ended.stdout, ended.stderr
    assert not processes_of(run_dir)
    for checkpoint in run_dir.glob("checkpoint-*"):
        check_manifest(checkpoint)
    alone = ground.command(["train.py", "--output-dir", run_dir, "--resume"])
    ground.assert_told(alone, 2, f"in {processes} processes, this in 1", f"mpirun -np {processes}")
    result = together(["train.py", "--output-dir", run_dir, "--resume"], processes).finish()
    assert result.returncode == 0, result.stderr
    assert "resuming from" in result.stdout
    ground.assert_same_end(run_dir, undisturbed_by(processes))


def test_under_slurm_a_run_whose_time_ends_is_queued_again_and_resumed_to_the_same_end(world, undisturbed_by, tmp_path):
    run_dir, asked = tmp_path / "run", tmp_path / "asked"
    asked.mkdir()
    scontrol = asked / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {asked}/said\n')
    scontrol.chmod(0o755)
    path = os.pathsep.join([str(asked), str(Path(MPIRUN).parent), os.environ["PATH"]])
    slurm = {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "17", "PATH": path, "PYTHON": sys.executable}
    _, *options = ground.training(world, run_dir, "--max-steps", 12)

    def submitted() -> ground.Running:
        return ground.Running([SBATCH, *options], program="bash", **slurm, **SETTINGS)

    running = submitted()
    ground.wait_for(lambda: ground.steps_logged(run_dir) >= 4, running)
    running.send_signal(signal.SIGUSR1)  # to the script, as --signal=B:USR1 has it
    ended = running.finish()
    assert ended.returncode == 143, ended.stderr
    assert (asked / "said").read_text() == "requeue 17\n"
    result = submitted().finish()
    assert result.returncode == 0 and "resuming from" in result.stdout, result.stderr
    assert (asked / "said").read_text() == "requeue 17\n"  # once
    ground.assert_same_end(run_dir, undisturbed_by(4))


def test_sigusr1_saves_and_resume_goes_on_to_the_same_end(world, undisturbed_by_two, tmp_path):
    run_dir = tmp_path / "run"
    running = together(ground.training(world, run_dir, "--max-steps", 12, "--save-every", 50))
    ground.wait_for(lambda: ground.steps_logged(run_dir) >= 4, running)
    running.send_signal(signal.SIGUSR1)  # to mpirun, which passes it on
    ended = running.finish()
    ground.assert_told(ended, 143)
    assert f"--output-dir {run_dir} --resume" in ended.stdout + ended.stderr
    assert len(list(run_dir.glob("checkpoint-*"))) == 1 and not ground.unfinished(run_dir)
    result = together(["train.py", "--output-dir", run_dir, "--resume", "--save-every", "2"]).finish()
    assert result.returncode == 0, result.stderr
    ground.assert_same_end(run_dir, undisturbed_by_two)


def errors_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("error: ")]


def test_an_error_of_all_is_told_once(world, tmp_path):
    ended = together(ground.training(world, tmp_path / "run", "--model", tmp_path / "nowhere")).finish()
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert len(errors_of(ended.stderr)) == 1 and "nowhere" in errors_of(ended.stderr)[0], ended.stderr
    assert not ground.unfinished(tmp_path)


@pytest.mark.parametrize("wrong", ["no data", "other data"])
def test_an_error_of_one_process_ends_all(world, tmp_path, wrong):
    other = tmp_path / "other"
    if wrong == "other data":
        tiny.dialogue_folder(other, seed=3)
    arguments = ground.training(world, tmp_path / "run", "--max-steps", 1000)
    second = [*arguments, "--data-dir", other]
    running = ground.Running(
        [*arguments, ":", "-np", "1", sys.executable, *second], launcher=[MPIRUN, "-np", "1"], **SETTINGS
    )
    ended = running.finish()
    assert ended.returncode == 2 and "Traceback" not in ended.stderr, ended.stderr
    words = "process 1, " if wrong == "no data" else "the processes do not "
    assert len(errors_of(ended.stderr)) == 1 and words in errors_of(ended.stderr)[0], ended.stderr
    assert not list(tmp_path.glob("run/checkpoint-*"))


def test_an_update_sums_the_bytes_that_the_page_on_scaling_says():
    ended = ground.Running(
        ["-m", "tools.scaling", "--processes", 4, "--adapters", "nano", "--repeats", 2], **SETTINGS
    ).finish()
    assert ended.returncode == 0 and "Traceback" not in ended.stderr, ended.stderr
    assert "counted in a real update of nano: 524296 bytes\n" in ended.stdout  # 4 x (131,072 + 2)
    assert "| nano | 131,072 | 524,296 | " in ended.stdout
    for transport in ("memory", "TCP"):
        assert f"\n4 processes over {transport}: latency " in ended.stdout
