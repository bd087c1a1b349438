"""`make cuda-check`: what a machine with a GPU is asked to run once, and the report to attach afterwards.

Doctor, the build of Jittor's core, the proofs of the kernels, the comparisons with PyTorch, races, a profile. Each part
has its time and a log of its own; one that fails, or is cut off when its time is over, does not stop the others. Ten
minutes in all, five with --quick. Ends with status 1 where a part has failed or was cut off, with 2 where no CUDA
device can be used.
"""

import contextlib
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks import report
from common.command import Parser, run_command
from common.errors import UserError
from common.files import write_json, write_text
from gpt2_jittor.runtime import cuda, runtime
from gpt2_jittor.runtime.cuda.driver import dotted
from gpt2_jittor.runtime.precision import OLDEST_FOR_BF16
from tools.cuda import times

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = Path("runs") / "cuda-check"
SIZES = ("tiny", "gpt2", "gpt2-medium")
REHEARSAL = 7200  # seconds for each part of "tiny", which shows that everything runs; its figures mean nothing
NO_DEVICE = "sees no device"  # how benchmarks/torch_side.py ends then
AGAIN = "run the same command again"  # what runtime.import_jittor says where Jittor has rebuilt a part of itself
ASK_TORCH = "import torch; print(torch.__version__, torch.cuda.is_available())"
SIGNS = {"passed": "ok", "failed": "FAILED", "cut off": "CUT OFF"}
CORE = """
from gpt2_jittor.runtime import runtime
runtime.prepare("cuda")
there = runtime.core_is_compiled()
from gpt2_jittor.runtime.backend import jt
assert (jt.array([1.0, 2.0]) * 3).sum().item() == 9
print("was compiled before" if there else "compiled now", flush=True)
"""
KERNELS = """
import sys
from gpt2_jittor.runtime import runtime
runtime.prepare("cuda")
from gpt2_jittor.ops import prove, verdicts
out = [kernel for kernel in prove.OPERATORS if not verdicts.proved(kernel)]
print(f"{len(prove.OPERATORS) - len(out)} of {len(prove.OPERATORS)} agree{'; not ' if out else ''}{', '.join(out)}")
sys.exit(bool(out))
"""
PARITY = [
    "tests/cuda_emulation/test_on_device.py",
    "tests/ops/test_ops.py",
    "tests/ops/test_head_loss.py",
    "tests/ops/test_linear.py",
    "tests/cuda_emulation/test_half_products.py",
]
OUTCOME = re.compile(r"^(\S+::.+?) (PASSED|FAILED|ERROR|SKIPPED)\b", re.MULTILINE)  # a line of `pytest -v`


@dataclass
class Part:
    """One part: how it ended (of SIGNS), and what there is to say of it. `limit` is in seconds."""

    name: str
    status: str = "failed"
    detail: str = ""
    limit: float = 0.0
    seconds: float = 0.0
    log: str = ""
    races: dict = field(default_factory=dict)
    profile: list = field(default_factory=list)


def parse():
    """`size` of the races, `quick`, the Python with PyTorch, and the `output` folder."""
    parser = Parser(prog="make cuda-check", description=__doc__)
    parser.add_argument("--size", default="gpt2", choices=SIZES, help="of the races (default: gpt2)")
    parser.add_argument("--quick", action="store_true", help="five minutes instead of ten")
    parser.add_argument(
        "--torch-python", default=sys.executable, metavar="PYTHON", help="with PyTorch, transformers and PEFT"
    )
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="FOLDER", help=f"(default: {OUTPUT})")
    return parser.parse_args()


def examine(part: Part, given) -> None:
    """`make doctor`."""
    part.detail = _run(part, "-m", "gpt2_jittor.doctor")


def build(part: Part, given) -> None:
    """Jittor's core for the device, which the first import compiles."""
    part.detail = _run(part, "-c", CORE)
    if part.status == "failed" and AGAIN in part.detail:
        part.detail = _run(part, "-c", CORE)


def prove(part: Part, given) -> None:
    """The kernels beside their composed definitions."""
    part.detail = _run(part, "-c", KERNELS)


def compare(part: Part, given) -> None:
    """The tests that compare with PyTorch, with Jittor on the device, as far as they get."""
    chosen = ["-k", "logits or layer_norm"] if given.size == "tiny" else []
    last = _run(part, "-u", "-m", "pytest", "-vv", "-m", "", *PARITY, *chosen, CUDA_TESTS_ON_DEVICE="1")
    outcomes = dict(OUTCOME.findall(Path(part.log).read_text(encoding="utf-8", errors="replace")))
    broken = [name.rpartition("::")[2] for name, outcome in outcomes.items() if outcome in ("FAILED", "ERROR")]
    passed, skipped = (list(outcomes.values()).count(outcome) for outcome in ("PASSED", "SKIPPED"))
    part.detail += f"{passed} tests passed, {skipped} skipped"
    if broken:
        part.status, part.detail = "failed", f"{part.detail}; failed: {', '.join(broken)}"
    elif not passed:
        part.status, part.detail = "failed", f"{part.detail}: {last}"


def race(part: Part, given, kind: str, *options: str) -> None:
    """A race of benchmark.py, as far as it gets; that PyTorch cannot take part is no failure."""
    figures = Path(part.log).with_suffix(".json")
    options = ["--device", "cuda", "--size", given.size, "--torch-python", given.torch_python, *options]
    if given.quick:
        options += ["--without", "composed", "compile"]
    last = _run(part, "benchmark.py", kind, *options, "--json", str(figures), leaves=figures)
    if not figures.exists():
        raise RuntimeError(f"{part.detail}{last}")
    part.races = json.loads(figures.read_text(encoding="utf-8"))["races"]
    rows = [row for table in part.races.values() for row in table]
    failures = {row["name"]: row["failure"] for row in rows if "failure" in row}
    if any(NO_DEVICE not in why for why in failures.values()):
        part.status = "failed"
    part.detail += "; ".join(f"{name} not run: {why}" for name, why in failures.items()) or f"{len(rows)} contestants"


def train(part: Part, given, length: int) -> None:
    """LoRA updates of sequences of this length, in each precision that the device has."""
    devices = cuda.find(runtime.find_compiler()).driver.devices
    precisions = ["fp32", "bf16"] if devices[0].capability >= OLDEST_FOR_BF16 else ["fp32"]
    sizes = ["--rounds", "1", "--batch-size", "2", "--time", str(length // 8)]
    if given.size != "tiny":
        sizes = ["--rounds", "2" if given.quick else "4", "--repeat", "5", "--time", str(length)]
    race(part, given, "train", "--precision", *precisions, *sizes)


def decode(part: Part, given) -> None:
    """32 + 128 tokens, greedy, one prompt and eight."""
    sizes = ["--rounds", "1", "--new", "4"] if given.size == "tiny" else ["--rounds", "2" if given.quick else "3"]
    race(part, given, "decode", *sizes)


def profile(part: Part, given) -> None:
    """An update by operator, in Jittor's own words."""
    figures = Path(part.log).with_suffix(".json")
    last = _run(part, "-m", "tools.cuda.times", "--size", given.size, "--json", str(figures), leaves=figures)
    if not figures.exists():
        raise RuntimeError(f"{part.detail}{last}")
    part.profile = json.loads(figures.read_text(encoding="utf-8"))
    part.detail += f"{sum(row['count'] for row in part.profile)} operators of {len(part.profile)} kinds"


@dataclass(frozen=True)
class Task:
    """What a part does, and its seconds; and with --quick. Made for one H100 beside 16 cores."""

    act: Callable
    full: int
    quick: int


TASKS = {
    "doctor": Task(examine, 20, 10),
    "core": Task(build, 110, 80),
    "kernels": Task(prove, 50, 40),
    "parity": Task(compare, 60, 25),
    "training, 128 tokens": Task(lambda part, given: train(part, given, 128), 140, 60),
    "training, 1,024 tokens": Task(lambda part, given: train(part, given, 1024), 130, 40),
    "decoding": Task(decode, 65, 30),
    "profile": Task(profile, 25, 15),
}


def _run(part: Part, *command: str, leaves: Path | None = None, **environment: str) -> str:
    """Runs a part's command, keeps what it says, and returns the last line of it.

    When the part's time is over, the command and all that it started are ended, and the part's detail says so. What an
    earlier check has left in `leaves` is removed first.
    """
    if leaves:
        leaves.unlink(missing_ok=True)
    with Path(part.log).open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=os.environ | environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            part.status = "failed" if process.wait(timeout=part.limit) else "passed"
        except subprocess.TimeoutExpired:
            part.status, part.detail = "cut off", f"cut off after {part.limit:.0f} s: "
        finally:
            with contextlib.suppress(ProcessLookupError):  # its contestants and compilers, too
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    said = Path(part.log).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return said[-1] if said else f"ended with status {process.returncode}"


def check(name: str, act: Callable, limit: float, given) -> Part:
    """Runs one part, whatever it does."""
    log = given.output / f"{re.sub(r'[ ,]+', '-', name)}.log"
    part, started = Part(name, limit=round(limit, 1), log=str(log)), time.monotonic()
    try:
        act(part, given)
    except Exception as error:  # what a part leaves behind when it breaks down is anyone's guess
        part.detail = f"{type(error).__name__}: {error}"
        part.status = "failed" if part.status == "passed" else part.status
    part.seconds = round(time.monotonic() - started, 1)
    return part


def surroundings(found: cuda.Cuda, torch_python: str) -> dict:
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
        "torch, and whether it sees a device": _said("/", torch_python, "-c", ASK_TORCH),
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
        if part.profile:
            lines += [
                "",
                f"One update, {times.BATCH} x {times.TIME} tokens, fp32, by operator:",
                "",
                times.table(part.profile),
            ]
    return "\n".join([*lines, "", "peak MB is what the framework's allocator has taken of the device's memory.", ""])


def main() -> int:
    """Runs all parts and writes the report; the exit status, 1 where a part has failed or was cut off."""
    given = parse()
    found = cuda.find(runtime.find_compiler())
    if not found.usable:
        raise UserError(f"no CUDA device can be used: {found.problem}; `make doctor` shows the rest")
    given.output = given.output.resolve()
    given.output.mkdir(parents=True, exist_ok=True)
    where, parts = surroundings(found, given.torch_python), []
    spare = 0.0  # seconds that earlier parts have left
    for name, task in TASKS.items():
        print(f"== {name}", flush=True)
        limit = REHEARSAL if given.size == "tiny" else spare + (task.quick if given.quick else task.full)
        parts.append(check(name, task.act, limit, given))
        spare = max(0.0, limit - parts[-1].seconds)
        print(f"{SIGNS[parts[-1].status]}, {parts[-1].seconds:.0f} s: {parts[-1].detail}", flush=True)
        # written after each part: a machine that is taken away leaves what was done
        write_json(given.output / "report.json", {"surroundings": where, "parts": [asdict(part) for part in parts]})
        write_text(given.output / "report.md", table(where, parts))
    print(f"\nwrote {given.output / 'report.md'} and report.json: please attach both to your report")
    for part in parts:
        if part.status != "passed":
            print(f"{part.status}: {part.name} ({part.log})")
    return int(any(part.status != "passed" for part in parts))


if __name__ == "__main__":
    run_command(main)
