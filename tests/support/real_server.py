"""`serve.py` itself, on a free port, with adapters that PEFT made: what programs of others meet."""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import adapters
import yaml
from places import ROOT

NANO = ROOT / "checkpoints" / "gpt2-nano"
TASKS = {"talker": "dailydialog", "reader": "squad", "worker": "dolly"}  # the adapters, and whose prompts they have
READY = 300  # seconds until it answers: a first start compiles
SAID = re.compile(r"serving .* on (http://\S+) ")


class RealServer(subprocess.Popen):
    """A running server; `address` is its beginning of URLs. What it says goes to files, as nobody reads a pipe."""

    def __init__(self, *arguments: object, **environment: str):
        self.outputs = (tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+"))  # noqa: SIM115 (closed by `ended`)
        super().__init__(
            [sys.executable, "serve.py", "--port", "0", *map(str, arguments)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=self.outputs[0],
            stderr=self.outputs[1],
            env=os.environ | environment,
        )
        self.address = self._address()

    def _address(self) -> str:
        for _ in range(READY * 10):
            if found := SAID.search(self.said(0)):
                return found[1]
            assert self.poll() is None, self.said(1)
            time.sleep(0.1)
        self.kill()
        raise AssertionError(f"the server did not start within {READY} s: {self.said(1)}")

    def said(self, stream: int = 1) -> str:
        """What it has said on stdout (0) or stderr (1)."""
        # by position: its own descriptor shares this one's place in the file
        return os.pread(self.outputs[stream].fileno(), 1 << 20, 0).decode()

    def ended(self, seconds: float = 60) -> tuple[int, str]:
        """Its exit status and what it said on stderr, once it has ended by itself."""
        try:
            self.wait(seconds)
            return self.returncode, self.said()
        finally:
            self.close()

    def close(self) -> None:
        """Ends it, if it still runs."""
        self.kill()
        self.wait()
        for output in self.outputs:
            output.close()


def make_adapters(folder: Path, seed: int) -> dict[str, Path]:
    """Folders of plain adapters on nano, moved at random, each a run of its own task, by name."""
    found = {}
    for number, (name, task) in enumerate(TASKS.items()):
        settings = {"r": 2 + number, "lora_alpha": 4, "target_modules": ["c_attn", "c_fc"]}
        found[name] = adapters.make_adapter(NANO, folder / name, seed + number, settings)
        (found[name] / "arguments.yaml").write_text(yaml.safe_dump({"task": task, "model": str(NANO)}))
    return found


def adapter_options(folders: dict[str, Path]) -> list[str]:
    """The options that serve them under their names."""
    return [part for name, folder in folders.items() for part in ("--adapter", f"{name}={folder}")]


def written(path: Path, records: list[dict]) -> Path:
    """A file of JSON lines."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path
