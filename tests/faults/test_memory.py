"""Long runs keep to the memory that they had after their first steps."""

import concurrent.futures
import os
from pathlib import Path

import httpx
import pytest
import tiny
from real_server import RealServer

from tests.faults import ground

STEPS, SETTLED = 5000, 500
REQUESTS, ANSWERED = 2000, 200  # of a server
WINDOW = 250  # steps, or requests: the most of so many counts, as memory depends on lengths
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


def request(number: int) -> tuple[str, dict]:
    """The path and the body of one of several kinds of requests, of changing length."""
    text = "We like tea. "[: 2 + number % 11] * (1 + number % 5)
    if number % 4 == 0:
        return "/v1/embeddings", {"input": text}
    if number % 4 == 1:
        messages = [{"role": "user", "content": text}]
        return "/v1/chat/completions", {"messages": messages, "max_tokens": 8, "seed": number, "stream": True}
    more = {"echo": True, "logprobs": 3} if number % 4 == 2 else {"temperature": 0, "n": 2}
    return "/v1/completions", {"prompt": text, "max_tokens": 1 + number % 9, **more}


@pytest.mark.faults
def test_a_server_keeps_to_its_memory(tmp_path):
    server = RealServer("--model", tiny.model_folder(tmp_path / "model", seed=1), **ground.THREADS)
    points = []

    def ask(number: int) -> None:
        path, body = request(number)
        assert http.post(path, json={"model": "model", **body}).status_code == 200
        if number % 50 == 0:
            points.append((number, resident(server.pid)))

    try:
        with (
            httpx.Client(base_url=server.address, timeout=60) as http,
            concurrent.futures.ThreadPoolExecutor(4) as clients,
        ):
            for _ in clients.map(ask, range(1, REQUESTS + 1)):
                pass
    finally:
        server.close()
    points.sort()
    settled = max(memory for number, memory in points if ANSWERED <= number < ANSWERED + WINDOW)
    last = max(memory for number, memory in points if number > REQUESTS - WINDOW)
    said = ", ".join(f"{memory:.0f} at {number}" for number, memory in points[::4])
    print(f"MiB at requests: {said}; {settled:.1f} from {ANSWERED} on, {last:.1f} at the end")
    assert last <= settled * (1 + TOLERANCE)
