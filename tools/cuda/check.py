"""`make cuda-check`: what a machine with a GPU is asked to run once, and the report to attach afterwards.

The doctor, the comparisons with PyTorch on the device, and the races. A part that fails does not stop the others; each
has a log of its own. Ends with status 1 where one has failed, with 2 where no CUDA device can be used.
"""

import contextlib
import json
import os
import platform
import subprocess
import sys
import time
import xml.etree.ElementTree
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks import report
from common.command import Parser, run_command
from common.errors import UserError
from common.files import write_json, write_text
from gpt2_jittor.runtime import cuda, runtime
from gpt2_jittor.runtime.cuda.driver import dotted

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = Path("runs") / "cuda-check"
WORK = {  # options of the races; "tiny" shows that everything runs, its figures mean nothing
    "tiny": ["--size", "tiny", "--rounds", "1", "--batch-size", "2", "--time", "16", "--new", "4"],
    "gpt2": ["--size", "gpt2"],
    "gpt2-medium": ["--size", "gpt2-medium"],
}
RACES = {"training": "train", "decoding": "decode", "first update": "start"}
NO_DEVICE = "sees no device"  # how benchmarks/torch_side.py ends then
ASK_TORCH = "import torch; print(torch.__version__, torch.cuda.is_available())"
COMPARISONS = {  # pytest's files and options; and those of a rehearsal
    "operators": (
        ["tests/ops/test_ops.py", "tests/ops/test_head_loss.py", "tests/ops/test_linear.py"],
        ["-k", "layer_norm"],
    ),
    "parity": (["tests/cuda_emulation", "-m", "cuda_emulation"], ["-k", "logits"]),
}
HOURS = 2  # that a part may take
SIGNS = {"passed": "ok", "failed": "FAILED"}


@dataclass
class Part:
    """One part: how it ended ("passed" or "failed"), and what there is to say of it."""

    name: str
    status: str = "failed"
    detail: str = ""
    seconds: float = 0.0
    log: str = ""
    races: dict = field(default_factory=dict)


def parse():
    """`size` of the races, and the `output` folder."""
    parser = Parser(prog="make cuda-check", description=__doc__)
    parser.add_argument("--size", default="gpt2", choices=tuple(WORK), help="of the races (default: gpt2)")
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="FOLDER", help=f"(default: {OUTPUT})")
    return parser.parse_args()


def examine(part: Part, size: str) -> None:
    """`make doctor`."""
    part.detail = _run(part, "-m", "gpt2_jittor.doctor")


def compare(part: Part, size: str) -> None:
    """The tests that compare with PyTorch, with Jittor on the device."""
    results = Path(part.log).with_suffix(".xml")
    chosen, rehearsal = COMPARISONS[part.name]
    options = [*chosen, *(rehearsal if size == "tiny" else []), f"--junitxml={results}"]
    _run(part, "-m", "pytest", *options, leaves=results, CUDA_TESTS_ON_DEVICE="1")
    suite = next(xml.etree.ElementTree.parse(results).iter("testsuite"))
    counts = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    ran = counts["tests"] - counts["skipped"]
    broken = [
        case.get("name") for case in suite.iter("testcase") if {"failure", "error"} & {child.tag for child in case}
    ]
    part.detail = f"{ran - len(broken)} of {ran} tests passed, {counts['skipped']} skipped"
    if broken:
        part.detail += f"; failed: {', '.join(broken)}"
    if not ran:
        part.status = "failed"


def race(part: Part, size: str) -> None:
    """A race of benchmark.py; that PyTorch cannot take part is no failure."""
    figures = Path(part.log).with_suffix(".json")
    options = ["--device", "cuda", *WORK[size], "--json", str(figures)]
    _run(part, "benchmark.py", RACES[part.name], *options, leaves=figures)
    part.races = json.loads(figures.read_text(encoding="utf-8"))["races"]
    rows = [row for table in part.races.values() for row in table]
    failures = {row["name"]: row["failure"] for row in rows if "failure" in row}
    if any(NO_DEVICE not in why for why in failures.values()):
        part.status = "failed"
    part.detail = "; ".join(f"{name} not run: {why}" for name, why in failures.items()) or "all contestants"


PARTS = {"doctor": examine} | dict.fromkeys(COMPARISONS, compare) | dict.fromkeys(RACES, race)


def _run(part: Part, *command: str, leaves: Path | None = None, **environment: str) -> str:
    """Runs a part's command, keeps what it says, and returns the last line of it.

    Raises RuntimeError with that line where the file is not there that the command should leave.
    """
    if leaves:
        leaves.unlink(missing_ok=True)  # an earlier check's
    with Path(part.log).open("w", encoding="utf-8") as log:
        ended = subprocess.run(
            [sys.executable, *command],
            cwd=ROOT,
            env=os.environ | environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=3600 * HOURS,
            check=False,
        )
    part.status = "passed" if ended.returncode == 0 else "failed"
    said = Path(part.log).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last = said[-1] if said else f"ended with status {ended.returncode}"
    if leaves and not leaves.exists():
        raise RuntimeError(last)
    return last


def check(name: str, folder: Path, size: str) -> Part:
    """Runs one part, whatever it does."""
    part = Part(name, log=str(folder / f"{name.replace(' ', '-')}.log"))
    started = time.monotonic()
    try:
        PARTS[name](part, size)
    except subprocess.TimeoutExpired:
        part.detail = f"not at an end after {HOURS} hours"
    except Exception as error:  # what a part leaves behind when it breaks down is anyone's guess
        part.status, part.detail = "failed", f"{type(error).__name__}: {error}"
    part.seconds = round(time.monotonic() - started, 1)
    return part


def surroundings(found: cuda.Cuda) -> dict:
    """The device and the versions: what a figure means nothing without."""
    several = len(found.driver.devices) > 1
    return {
        "devices": "; ".join(map(str, found.driver.devices)) + ("; the first is used" if several else ""),
        "driver": f"CUDA {dotted(found.driver.release)}",
        "toolkit": f"CUDA {dotted(found.toolkit.release)}, {found.toolkit.nvcc}",
        "compiler": found.toolkit.compiler or runtime.find_compiler(),
        "system": platform.platform(),
        "machine": report.machine(),
        "Python": platform.python_version(),
        "torch, and whether it sees a device": _said("/", sys.executable, "-c", ASK_TORCH),
        "commit": _said(ROOT, "git", "describe", "--always", "--dirty"),
    }


def _said(folder: str | Path, *command: str) -> str:
    with contextlib.suppress(OSError):
        ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        return ended.stdout.strip() or "none"
    return "none"


def table(where: dict, parts: list[Part]) -> str:
    """The report as Markdown."""
    lines = ["# cuda-check", "", *(f"- {name}: {value}" for name, value in where.items()), ""]
    lines += ["| part | | seconds | | log |", "|---|---|---|---|---|"]
    lines += [f"| {p.name} | {SIGNS[p.status]} | {p.seconds} | {p.detail} | {Path(p.log).name} |" for p in parts]
    for part in parts:
        for title, rows in part.races.items():
            lines += ["", report.show(title, rows)]
    return "\n".join([*lines, "", "peak MB is what the framework's allocator has taken of the device's memory.", ""])


def main() -> int:
    """Runs all parts and writes the report; the exit status, 1 where a part has failed."""
    given = parse()
    found = cuda.find(runtime.find_compiler())
    if not found.usable:
        raise UserError(f"no CUDA device can be used: {found.problem}; `make doctor` shows the rest")
    folder = given.output.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    where, parts = surroundings(found), []
    for name in PARTS:
        print(f"== {name}", flush=True)
        parts.append(check(name, folder, given.size))
        print(f"{SIGNS[parts[-1].status]}, {parts[-1].seconds:.0f} s: {parts[-1].detail}", flush=True)
        # written after each part: a machine that is taken away leaves what was done
        write_json(folder / "report.json", {"surroundings": where, "parts": [asdict(part) for part in parts]})
        write_text(folder / "report.md", table(where, parts))
    failed = [part.name for part in parts if part.status == "failed"]
    print(f"\nwrote {folder / 'report.md'} and report.json: please attach both to your report")
    print(
        "failed: " + ", ".join(f"{p.name} ({p.log})" for p in parts if p.status == "failed") if failed else "all well"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    run_command(main)
