"""A server as a contestant: clients that ask at the same time, each for a greedy continuation, streamed.

It is started as its users start it, and asked over loopback. A unit of work is one answer to each client.
"""

import itertools
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.worker import most_mb, serve

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = {
    "ours": [sys.executable, str(ROOT / "serve.py"), "--model", "{model}", "--port", "{port}", "--device", "cpu"],
    "wrapper": [sys.executable, str(ROOT / "benchmarks" / "generate_server.py"), "{model}", "{port}"],
}
PATIENCE = 600  # seconds until a server answers
WARM_UP = 2  # units before the rounds: worker.py


def prepare(settings: dict):
    """The unit of work; its `more` holds the seconds to each answer's first token."""
    port = _free_port()
    command = [part.format(model=settings["model"], port=port) for part in COMMANDS[settings["server"]]]
    said = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the server
    server = subprocess.Popen(command, stdout=said, stderr=said, cwd=ROOT)
    address = f"http://127.0.0.1:{port}"
    _wait(f"{address}/v1/models", server, said)
    shape, most = (prompts := np.load(settings["data"])["prompts"]).shape, int(prompts.max())
    random = np.random.default_rng(0)
    unit, firsts = itertools.count(), []

    def ask(prompt: list[int], made: list[int]) -> None:
        """One client's request."""
        body = {
            "model": Path(settings["model"]).name,
            "prompt": prompt,
            "max_tokens": settings["new"],
            "temperature": 0,
        }
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{address}/v1/completions", json.dumps(body).encode(), headers)
        started, first = time.perf_counter(), None
        with urllib.request.urlopen(request) as answer:
            for line in answer:
                if not line.startswith(b"data: {"):
                    continue
                chunk = json.loads(line[6:])
                if first is None and chunk.get("choices") and chunk["choices"][0]["text"]:
                    first = time.perf_counter() - started
                if chunk.get("usage"):
                    made.append(chunk["usage"]["completion_tokens"])
        firsts.append(first)

    def load() -> float:
        """One unit: how many tokens were made for all clients."""
        made: list[int] = []
        if next(unit) == WARM_UP:
            firsts.clear()
        fresh = random.integers(0, most + 1, shape).tolist()  # no server has read them before
        with ThreadPoolExecutor(len(fresh)) as clients:
            for asked in [clients.submit(ask, prompt, made) for prompt in fresh]:
                asked.result()
        load.more = {"first_token": [value for value in firsts if value is not None]}
        return float(sum(made))

    load.memory_mb = lambda: most_mb(server.pid)
    load.stop = server.terminate
    return load


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _wait(address: str, server: subprocess.Popen, said) -> None:
    """Until the server answers. Raises RuntimeError with its last words where it ends before."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if server.poll() is not None:
            said.seek(0)
            raise RuntimeError(said.read().decode(errors="replace").strip().splitlines()[-1])
        try:
            urllib.request.urlopen(address).close()
            return
        except OSError:
            time.sleep(0.2)
    server.terminate()
    raise RuntimeError(f"no answer from the server within {PATIENCE} s")


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    serve(prepare)
