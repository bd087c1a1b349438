"""Dolly-15k: instructions and their answers, written by Databricks' people.

One JSON object a line, and no splits: a hash of the instruction sets validation and test apart, so that an
instruction that stands there twice never stands on both sides.
"""

from pathlib import Path

from common.errors import UserError
from common.hub import fetch
from datasets import records
from datasets.example import Dataset, Example, Segment
from datasets.holdout import select_split
from datasets.task import INSTRUCT, Task
from datasets.truncation import fitted, fitted_prompt

REPOSITORY = "databricks/databricks-dolly-15k"
FILE = "databricks-dolly-15k.jsonl"
SAMPLE_DIR = Path(__file__).parents[1] / "samples" / "dolly"
NEEDED = ("instruction", "response")
COLUMNS = ("instruction", "context", "response")
SHARES = {"validation": 0.03, "test": 0.03}  # of the instructions


def load(split: str, data_dir: Path | None) -> Dataset:
    """Reads a split from `data_dir` (the publisher's .jsonl, or its records in another format), or from the hub.

    Raises UserError where the file is missing or broken, or has no instruction with a response. Exact duplicates
    are left out.
    """
    if data_dir is None:
        path = fetch(REPOSITORY, FILE, repo_type="dataset")
    else:
        path = records.find(data_dir, records.files(Path(FILE).stem), f"Dolly's {FILE}")
    examples, instructions, dropped, seen = [], [], [], {}
    for where, record in records.records(path, NEEDED, optional=("context",)):
        fields = tuple(records.text(record, name, where, required=False) for name in COLUMNS)
        instruction, context, response = fields
        fault = _fault(fields, seen.setdefault(fields, where), where)
        if fault:
            dropped.append(f"{where}: {fault}")
            continue
        said = Segment(response, scored=True, cut=True)
        examples.append(Example((*prompt(instruction, context).segments, said), where, references=(response,)))
        instructions.append(instruction)
    if not examples:
        raise UserError(f"{path} has no instruction with a response: give Dolly's {FILE}; the first: {dropped[0]}")
    return Dataset("dolly", split, select_split(examples, instructions, split, SHARES), dropped)


def prompt(instruction: str, context: str = "") -> Example:
    """What a response continues; the context's part is there only where there is one."""
    given = [Segment(f"### Instruction:\n{instruction.strip()}\n\n", scored=False, end=False)]
    if context.strip():
        given += [
            Segment("### Context:\n", scored=False, end=False),
            Segment(context.strip(), scored=False, end=False, cut=True),
            Segment("\n\n", scored=False, end=False),
        ]
    return Example((*given, Segment("### Response:\n", scored=False, end=False)))


def _fault(fields: tuple[str, ...], first: str, where: str) -> str:
    if not fields[0] or not fields[2]:
        return "the instruction or the response is empty"
    return "" if first == where else f"the same as {first}"


TASK = Task("dolly", INSTRUCT, ("instruction", "context"), load, fitted, prompt, fitted_prompt, SAMPLE_DIR)
