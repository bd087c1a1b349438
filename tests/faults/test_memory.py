"""Long runs keep to the memory that they had after their first steps."""

import os
from pathlib import Path

import pytest

from tests.faults import ground

STEPS, SETTLED = 5000, 500
WINDOW = 250  # steps: the most of so many counts, as an update's memory depends on its lengths
TOLERANCE = 0.03  # of the resident memory after SETTLED steps


def resident(pid: int) -> float:
    """Resident memory of a process in MiB; 0 where it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS")), 0.0)


def watch(run_dir: Path, steps: int) -> list[tuple[int, float]]:
    """Trains nano on its embedded dialogues; (steps done, MiB) about every 20 steps."""
    given = ["train.py", "--task", "dailydialog", "--data-dir", "sample", "--model", "nano", "--output-dir", run_dir]
    given += ["--max-steps", steps, "--batch-size", 2, "--max-length", 64, "--eval-every", 250, "--eval-limit", 8]
    process = ground.Running(given)
    points = []
    while process.poll() is None:
        wanted = points[-1][0] + 20 if points else 0
        ground.wait_for(lambda wanted=wanted: ground.steps_logged(run_dir) >= wanted, process)
        points.append((ground.steps_logged(run_dir), resident(process.pid)))
    ended = process.finish()
    assert ended.returncode == 0, ended.stderr
    return [point for point in points if point[1]]


def draw(points: list[tuple[int, float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots()
    axes.plot(*zip(*points, strict=True))
    axes.set(xlabel="step", ylabel="resident memory (MiB)", ylim=(0, None))
    figure.savefig(path)


@pytest.mark.faults
def test_memory_stays_flat(tmp_path):
    steps = int(os.environ.get("MEMORY_STEPS", STEPS))
    points = watch(tmp_path / "run", steps)
    draw(points, tmp_path / "memory.png")
    settled = max(memory for step, memory in points if SETTLED <= step < SETTLED + WINDOW)
    last = max(memory for step, memory in points if step >= steps - WINDOW)
    said = ", ".join(f"{memory:.0f} at {step}" for step, memory in points[:: max(1, len(points) // 20)])
    print(f"MiB at steps: {said}; {settled:.1f} from {SETTLED} on, {last:.1f} at the end; {tmp_path / 'memory.png'}")
    assert last <= settled * (1 + TOLERANCE)
