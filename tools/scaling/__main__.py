"""What training in several processes costs: sums measured on this machine, and worked out for other links.

python -m tools.scaling                                  # 2 and 4 processes, some minutes
python -m tools.scaling --processes 2 --adapters nano gpt2
python -m tools.scaling --paper                          # the tables that need no measuring alone

Needs Open MPI (docs/usage.md). Prints tables that can stand in docs/scaling.md.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.report import machine
from common.command import Parser, run_command
from common.errors import UserError
from gpt2_jittor.runtime.runtime import INSTALL_MPI, find_mpi
from tools.scaling.model import ADAPTERS
from tools.scaling.report import measured_table, paper_tables

# how processes of one machine talk: Open MPI's own choice there, and as if they were on two
TRANSPORTS = {
    "memory": [],
    "TCP": ["--mca", "pml", "ob1", "--mca", "btl", "self,tcp", "--mca", "btl_tcp_if_include", "lo"],
}
ROOT = Path(__file__).resolve().parents[2]
SECONDS = 600  # for one start of the processes; the first compiles what it needs


def parse() -> argparse.Namespace:
    """`processes`, `adapters`, `repeats`, `paper`. Raises UserError for what makes no sense."""
    parser = Parser(prog="python -m tools.scaling", description=__doc__)
    names = [adapter.name for adapter in ADAPTERS]
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4], metavar="N", help="how many (default: 2 4)")
    parser.add_argument("--adapters", nargs="+", default=names, choices=names, help="whose sums (default: all)")
    parser.add_argument("--repeats", type=int, default=20, metavar="N", help="of each sum (default: 20)")
    parser.add_argument("--paper", action="store_true", help="measure nothing")
    given = parser.parse_args()
    if min(given.processes) < 2:
        raise UserError("--processes must be 2 or more: one has nothing to sum")
    if given.repeats < 1:
        raise UserError(f"--repeats must be at least 1, not {given.repeats}")
    return given


def measure(mpirun: str, processes: int, transport: str, given: argparse.Namespace) -> dict:
    """What `tools/scaling/worker.py` finds in so many processes. Raises UserError where they do not come to an end."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "measured.json"
        line = [mpirun, "-np", str(processes), "--oversubscribe", "--bind-to", "none", *TRANSPORTS[transport]]
        line += [sys.executable, "-m", "tools.scaling.worker", "--output", str(output)]
        line += ["--repeats", str(given.repeats), "--adapters", *given.adapters]
        try:
            ended = subprocess.run(line, capture_output=True, text=True, check=False, timeout=SECONDS, cwd=ROOT)
        except subprocess.TimeoutExpired as error:
            raise UserError(f"{processes} processes over {transport} did not end within {SECONDS} s") from error
        if ended.returncode or not output.is_file():
            said = (ended.stderr.strip() or ended.stdout.strip())[-1500:]
            raise UserError(f"{processes} processes over {transport} failed: {said}")
        found = json.loads(output.read_text(encoding="utf-8"))
    return found | {"sums": {int(size): seconds for size, seconds in found["sums"].items()}}


def main() -> None:
    """Measures, and prints what was found and what follows."""
    given = parse()
    copying = None
    if not given.paper:
        mpirun = find_mpi("mpirun")
        if mpirun is None:
            raise UserError(f"mpirun was not found: {INSTALL_MPI}")
        found = {}
        for processes in given.processes:
            for transport in TRANSPORTS:
                print(f"measuring {processes} processes over {transport} ...", file=sys.stderr, flush=True)
                found[processes, transport] = measure(mpirun, processes, transport, given)
        table, copying = measured_table(found)
        print(f"{machine()}\n\n{table}\n")
    print(paper_tables(copying))


if __name__ == "__main__":
    run_command(main)
