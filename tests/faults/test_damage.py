"""Checkpoints that were cut or changed on the disk: found out before they are used, and the next older one taken."""

import json
import shutil

import numpy as np
import pytest

from common.errors import UserError
from tests.faults import ground
from training.checkpoint import checkpoints, newest

FILES = (
    "adapter_model.safetensors",
    "adapter_config.json",
    "optimizer.safetensors",
    "progress.json",
    "identity.json",
    "manifest.json",
)
HEADER = 8  # bytes of a safetensors file that say how long its header is


def flip(data: bytes, place: int, bit: int) -> bytes:
    return data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :]


def classes(name: str, data: bytes, random: np.random.Generator) -> dict[str, int]:
    """A byte of each class of a file: its ends, and of a tensor file its length, header and numbers."""
    places = {"first": 0, "last": len(data) - 1, "any": int(random.integers(len(data)))}
    if name.endswith(".safetensors"):
        length = int.from_bytes(data[:HEADER], "little")
        places |= {
            "length": int(random.integers(HEADER)),
            "header": HEADER + int(random.integers(length)),
            "tensor": HEADER + length + int(random.integers(len(data) - HEADER - length)),
        }
    return places


@pytest.mark.parametrize("name", FILES)
def test_every_class_of_byte_flipped_or_cut_is_found_and_the_older_checkpoint_offered(undisturbed, tmp_path, rng, name):
    run_dir = shutil.copytree(undisturbed, tmp_path / "run")
    older, last = checkpoints(run_dir)
    whole = (last / name).read_bytes()
    for where, place in classes(name, whole, rng).items():
        for damaged in (flip(whole, place, int(rng.integers(8))), whole[:place], whole + b"\0"):
            (last / name).write_bytes(damaged)
            found, reasons = newest(run_dir)
            assert found == older and len(reasons) == 1 and str(last) in reasons[0], (where, place)
    (last / name).unlink()
    assert newest(run_dir)[0] == older
    (last / name).write_bytes(whole)
    assert newest(run_dir) == (last, [])


def test_where_no_checkpoint_is_whole_every_one_is_named(undisturbed, tmp_path):
    run_dir = shutil.copytree(undisturbed, tmp_path / "run")
    for path in checkpoints(run_dir):
        (path / "progress.json").write_bytes(b"{}")
    with pytest.raises(UserError) as caught:
        newest(run_dir)
    assert [path for path in checkpoints(run_dir) if str(path) not in str(caught.value)] == []


def test_a_run_goes_on_from_the_older_checkpoint_and_ends_as_if_nothing_had_happened(world, undisturbed, tmp_path):
    """With a damaged checkpoint, what a killed process left half-written, and a metrics file cut within a line."""
    run_dir = shutil.copytree(undisturbed, tmp_path / "run")
    settings = (run_dir / "arguments.yaml").read_text().replace(str(undisturbed), str(run_dir))
    (run_dir / "arguments.yaml").write_text(settings)
    older, last = checkpoints(run_dir)
    weights = last / "adapter_model.safetensors"
    weights.write_bytes(flip(weights.read_bytes(), weights.stat().st_size - 5, 3))
    (run_dir / ".part-abc-checkpoint-14").mkdir()
    (run_dir / ".part-abc-adapter_model.safetensors").write_bytes(b"half")
    metrics = (run_dir / "metrics.jsonl").read_bytes()
    (run_dir / "metrics.jsonl").write_bytes(metrics[:-40])
    result = ground.command(["train.py", "--output-dir", run_dir, "--resume"])
    assert result.returncode == 0, result.stderr
    assert f"passed over: {weights}" in result.stdout and f"resuming from {older}" in result.stdout
    ground.assert_same_end(run_dir, undisturbed)


def test_a_changed_argument_data_or_base_is_named_and_nothing_is_touched(world, undisturbed, tmp_path):
    run_dir = shutil.copytree(undisturbed, tmp_path / "run")
    before = ground.contents(run_dir)
    resume = ["train.py", "--output-dir", run_dir, "--resume"]
    changed = ground.command([*resume, "--seed", 5, "--eval-every", 2, "--learning-rate", 1e-3, "--save-every", 1])
    ground.assert_told(changed, 2, "--seed", "--eval-every", "--learning-rate")
    assert "--save-every" not in changed.stderr
    ground.assert_told(ground.command([*resume, "--max-steps", 11]), 2, "longer, not shorter", "12")
    other = shutil.copytree(world / "data", tmp_path / "data")
    path = other / "train" / "dialogues_train.txt"
    path.write_text(path.read_text().replace("tea", "sun"))
    ground.assert_told(
        ground.command([*resume, "--data-dir", other, "--epochs", 50]), 2, "--data-dir", "data are others"
    )
    settings = world / "model" / "config.json"
    sound = settings.read_text()
    try:
        for change in ({"activation_function": "relu"}, {"layer_norm_epsilon": 1e-6}, {"resid_pdrop": 0.2}):
            settings.write_text(json.dumps(json.loads(sound) | change))
            ground.assert_told(
                ground.command([*resume, "--max-steps", 15]), 2, "the base model's weights or its config.json"
            )
    finally:
        settings.write_text(sound)
    threads = ground.command([*resume, "--max-steps", 15], OMP_NUM_THREADS="2")
    ground.assert_told(threads, 2, "it ran on 1 threads, this on 2", "OMP_NUM_THREADS=1")
    edited = (run_dir / "arguments.yaml").read_text().replace("seed: 0", "seed: 6")
    (run_dir / "arguments.yaml").write_text(edited)
    ground.assert_told(ground.command(resume), 2, "--seed was 0 and is 6 now", "arguments.yaml")
    (run_dir / "arguments.yaml").write_bytes(before["arguments.yaml"])
    assert ground.contents(run_dir) == before


def test_other_instructions_are_said_and_the_run_goes_on(undisturbed, tmp_path):
    run_dir = shutil.copytree(undisturbed, tmp_path / "run")
    resume = ["train.py", "--output-dir", run_dir, "--resume", "--max-steps", 13]
    result = ground.command(resume, ONEDNN_MAX_CPU_ISA="SSE41")
    assert result.returncode == 0, result.stderr
    (note,) = [line for line in result.stdout.splitlines() if line.startswith("note: ")]
    assert f"{run_dir / 'checkpoint-12'} was made on " in note and "MAX_CPU_ISA SSE41" in note
