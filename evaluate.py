"""Measures a model on a task's data: loss and perplexity over scored tokens.

python evaluate.py --task dailydialog --data-dir data/dailydialog --model nano
python evaluate.py --task dailydialog --data-dir data/dailydialog --adapter runs/dailydialog-nano-lora --json
"""

import dataclasses
import json
import sys
import time
from pathlib import Path

from common.command import Parser, run_command
from common.errors import UserError
from datasets import registry
from datasets.encode import report
from datasets.example import SPLITS


def parse():
    parser = Parser(prog="evaluate.py", description=__doc__)
    parser.add_argument("--task", help="what to measure on; else what the run was trained on")
    parser.add_argument("--data-dir", help="local data, or `sample`; else the run's own, else the hub's copy")
    parser.add_argument("--split", default="test", choices=SPLITS, help="(default: test)")
    parser.add_argument("--model", help="base model: a name or a folder; else the adapter's own, else nano")
    parser.add_argument("--adapter", type=Path, metavar="RUN", help="a run's folder; the base is measured beside it")
    parser.add_argument("--max-length", type=int, help="longest example in tokens; else the run's own, else 512")
    parser.add_argument("--limit", type=int, help="measure on this many examples; else on all")
    parser.add_argument("--batch-size", type=int, default=8, help="(default: 8)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    given = parser.parse_args()
    for name, value in (("--limit", given.limit), ("--batch-size", given.batch_size)):
        if value is not None and value < 1:
            raise UserError(f"{name} must be at least 1, not {value}")
    return given


def main() -> None:
    given = parse()
    from gpt2_jittor import runtime
    from training import finished
    from training.setup import longest, read_split

    found = finished.find(given.model, given.adapter)
    run = found.arguments
    task = registry.task(given.task or run.get("task", "dailydialog"))
    data_dir = given.data_dir or (run.get("data_dir") if task.name == run.get("task") else None)
    length = longest(run.get("max_length") if given.max_length is None else given.max_length, found.config)
    dataset = read_split(task, given.split, data_dir, given.limit)
    data = task.encode(dataset.examples, found.tokenizer, length)
    print(report(dataset, data), file=sys.stderr)
    runtime.prepare(given.device)

    from training.evaluation import evaluate

    contestants = {"model": found}
    if found.adapter:
        contestants = {"base": dataclasses.replace(found, adapter=None), "adapter": found}
    rows = {}
    for name, contestant in contestants.items():
        started = time.perf_counter()
        score = evaluate(finished.load(contestant), data, given.batch_size, found.tokenizer.pad_token_id)
        rows[name] = {
            "loss": round(score.loss, 5),
            "perplexity": round(score.perplexity, 3),
            "scored_tokens": score.tokens,
            "seconds": round(time.perf_counter() - started, 1),
        }
    if given.json:
        print(json.dumps({"task": task.name, "split": given.split, "examples": len(data), **rows}))
        return
    columns = ["loss", "perplexity", "scored_tokens", "seconds"]
    print(" ".join(f"{name:>14}" for name in ["", *columns]))
    for name, row in rows.items():
        print(" ".join([f"{name:>14}", *(f"{row[column]:>14,}" for column in columns)]))


if __name__ == "__main__":
    run_command(main)
