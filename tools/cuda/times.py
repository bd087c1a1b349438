"""Where the time of an update goes on CUDA: Jittor's profiler, operator by operator, after the update has been made.

python -m tools.cuda.times --size gpt2 --json times.json
"""

import tempfile
from pathlib import Path

from benchmarks import inputs, ours
from benchmarks.profiling import description, operators
from common.command import Parser, run_command
from common.files import write_json

ROWS = 25  # that are printed: the rest is small
BATCH, TIME = 8, 128


def parse():
    """The model's `size`, and the file for `json`."""
    parser = Parser(prog="python -m tools.cuda.times", description=__doc__)
    parser.add_argument("--size", default="gpt2", choices=tuple(inputs.SIZES), help="(default: gpt2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all rows")
    return parser.parse_args()


def rows(size: str, folder: Path) -> list[dict]:
    """The operators of one update, the longest first: name, how often, milliseconds together, their share of all."""
    model = inputs.random_model(size, folder / size)
    vocab = inputs.SIZES[size].get("vocab_size", 50257)
    data = inputs.random_batches(folder / "batches.npz", vocab, BATCH, TIME)
    update = ours.prepare(
        {"task": "train", "model": str(model), "data": str(data), "lora_dropout": 0.05, "device": "cuda"}
    )
    for _ in range(2):
        update()
    found = operators(update)
    whole = sum(float(row["TotalTime"]) for row in found)
    return [
        {
            "operator": description(row["Name"]),
            "count": int(row["Count"]),
            "ms": float(row["TotalTime"]) / 1e6,  # the profiler counts nanoseconds
            "share": float(row["TotalTime"]) / whole,
        }
        for row in sorted(found, key=lambda row: -float(row["TotalTime"]))
    ]


def table(found: list[dict]) -> str:
    """The longest rows as Markdown, and what they come to."""
    lines = ["| operator | times | ms | share |", "|---|---|---|---|"]
    lines += [f"| {row['operator']} | {row['count']} | {row['ms']:.3f} | {row['share']:.1%} |" for row in found[:ROWS]]
    rest = found[ROWS:]
    total = sum(row["ms"] for row in found)
    lines.append(f"| {len(rest)} more | {sum(r['count'] for r in rest)} | {sum(r['ms'] for r in rest):.3f} | |")
    return "\n".join([*lines, f"| all | {sum(row['count'] for row in found)} | {total:.3f} | |"])


def main() -> None:
    """Prints the table and writes all of it."""
    given = parse()
    with tempfile.TemporaryDirectory() as folder:
        found = rows(given.size, Path(folder))
    print(table(found))
    if given.json:
        write_json(given.json, found)


if __name__ == "__main__":
    run_command(main)
