"""`make lm-eval`: the same tasks by the harness over HTTP, of `serve.py`, and by its own PyTorch; both side by side.

The tasks read local files (items.py). Over HTTP the harness sends token ids, and once more text. Ends with status 1
where a figure differs by more than TOLERANCE, or a greedy answer at all.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common.command import Parser, run_command
from common.errors import ParameterError, UserError
from tools.lm_eval.items import TASKS, write_items

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = 1e-4  # of a figure, relative where it is above 1: float32 sums of the same terms in another order
ADAPTER = "adapter"  # what it is called when it is served
SAID = re.compile(r"serving .* on (http://\S+) ")
NO_NETWORK = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass
class Judged:
    """What the harness found: figures by `task metric`, and each item's answers, which are texts or numbers."""

    figures: dict[str, float]
    answers: dict[str, list]
    seconds: float


@dataclass
class Harness:
    """The harness in its own .venv, in a folder where no package of ours is in the way of its own."""

    program: Path
    folder: Path
    limit: int | None

    def judge(self, kind: str, settings: dict[str, object]) -> Judged:
        """Runs the tasks. Raises UserError, with what it said last, where it fails."""
        started, results = time.monotonic(), self.folder / f"results-{time.monotonic_ns()}"
        line = [str(self.program), "--model", kind, "--tasks", ",".join(TASKS), "--include_path", str(self.folder)]
        line += ["--model_args", ",".join(f"{name}={value}" for name, value in settings.items())]
        line += ["--batch_size", "8", "--device", "cpu", "--output_path", str(results), "--log_samples"]
        line += ["--limit", str(self.limit)] if self.limit else []
        places = {"HF_HOME": str(self.folder / "cache"), "OPENAI_API_KEY": "none"}
        ended = subprocess.run(
            line, check=False, cwd=self.folder, env=os.environ | NO_NETWORK | places, capture_output=True, text=True
        )
        if ended.returncode:
            raise UserError(f"{self.program.name} failed: {' '.join(ended.stderr.split()[-60:])}")
        return Judged(*self._read(results), time.monotonic() - started)

    def _read(self, results: Path) -> tuple[dict[str, float], dict[str, list]]:
        (path,) = results.rglob("results_*.json")
        figures = {}
        for task, found in json.loads(path.read_text())["results"].items():
            named = {name.removesuffix(",none"): value for name, value in found.items() if name.endswith(",none")}
            figures |= {f"{task} {name}": value for name, value in named.items() if "_stderr" not in name}
        answers = {}
        for task in TASKS:
            (path,) = results.rglob(f"samples_{task}_*.jsonl")
            items = sorted(map(json.loads, path.read_text().splitlines()), key=lambda item: item["doc_id"])
            answers[task] = [item["resps"] for item in items]
        return figures, answers


@contextlib.contextmanager
def served(model: Path, adapter: Path | None) -> Iterator[str]:
    """The address of `serve.py` with the model. Raises UserError, with what it said, where it does not start."""
    more = ["--adapter", f"{ADAPTER}={adapter}"] if adapter else []
    line = [sys.executable, "serve.py", "--port", "0", "--max-waiting", "1000", "--model", str(model), *more]
    with tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            address = SAID.search(server.stdout.readline())
            if address is None:
                server.wait()
                log.seek(0)
                raise UserError(f"serve.py did not start: {log.read().strip()}")
            yield address[1]
        finally:
            server.terminate()
            server.wait()


def differences(ours: Judged, theirs: Judged) -> list[str]:
    """What differs more than it may: names of figures, and tasks with so many items whose answers differ."""
    far = [name for name, value in theirs.figures.items() if not _near(ours.figures[name], value)]
    for task in TASKS:
        pairs = zip(ours.answers[task], theirs.answers[task], strict=True)
        if count := sum(not _alike(found, expected) for found, expected in pairs):
            far.append(f"{count} items of {task}")
    return far


def _near(found: float, expected: float) -> bool:
    return abs(found - expected) <= TOLERANCE * max(1.0, abs(expected))


def _alike(found: object, expected: object) -> bool:
    """Whether two answers are: nested lists of texts, among which numbers stand as texts."""
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(_alike, found, expected))
    try:
        return _near(float(found), float(expected))
    except ValueError:
        return found == expected


def show(name: str, theirs: Judged, ours: dict[str, Judged]) -> bool:
    """Prints the figures side by side; whether all agree, and each item's answers."""
    heads = ["PyTorch", *(f"HTTP, {way}" for way in ours)]
    print(f"\n{name:<28}" + "".join(f"{head:>16}" for head in heads))
    for figure, value in theirs.figures.items():
        row = [value, *(found.figures[figure] for found in ours.values())]
        print(f"{figure:<28}" + "".join(f"{each:>16.6f}" for each in row))
    print(f"{'seconds':<28}" + "".join(f"{each.seconds:>16.0f}" for each in (theirs, *ours.values())))
    items = ", ".join(f"{len(answers)} items of {task}" for task, answers in theirs.answers.items())
    wrong = {way: differences(found, theirs) for way, found in ours.items()}
    for way, found in wrong.items():
        said = f"DIFFERENT: {', '.join(found)}" if found else f"agree, and so do the answers to {items}"
        print(f"PyTorch and HTTP, {way}: {said}", flush=True)
    return not any(wrong.values())


def main() -> int:
    """Judges the base, and an adapter if there is one; 0 where all agree."""
    parser = Parser(prog="python -m tools.lm_eval.compare", description=__doc__)
    parser.add_argument("--model", default="checkpoints/gpt2-nano", help="a folder in Hugging Face's layout")
    parser.add_argument("--adapter", type=Path, help="a LoRA adapter on it")
    parser.add_argument("--limit", type=int, help="so many items of each task; else all")
    parser.add_argument("--lm-eval", type=Path, default=ROOT / ".venv-lm-eval/bin/lm_eval", help="the harness")
    given = parser.parse_args()
    folder = Path(given.model).resolve()
    if not folder.is_dir():
        raise ParameterError("{model} {0} is no folder: give one in Hugging Face's layout", given.model)
    positions = json.loads((folder / "config.json").read_text())["n_positions"]
    agreed = True
    with tempfile.TemporaryDirectory() as work, served(folder, given.adapter) as address:
        write_items(Path(work))
        harness = Harness(given.lm_eval, Path(work), given.limit)
        judged = {folder.name: {}} | ({ADAPTER: {"peft": given.adapter.resolve()}} if given.adapter else {})
        for name, peft in judged.items():
            theirs = harness.judge("hf", {"pretrained": folder, "dtype": "float32", "max_length": positions, **peft})
            api = {"model": name, "base_url": f"{address}/v1/completions", "tokenizer": folder, "num_concurrent": 4}
            api |= {"max_length": positions, "tokenizer_backend": "huggingface"}
            ours = {
                way: harness.judge("local-completions", api | {"tokenized_requests": way == "ids"})
                for way in ("ids", "text")
            }
            agreed &= show(name, theirs, ours)
    return 0 if agreed else 1


if __name__ == "__main__":
    run_command(main)
