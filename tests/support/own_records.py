"""Files of people's own records to test with, and what is read of them."""

import csv
import gzip
import io
import json

from datasets import tasks
from datasets.example import Example
from datasets.tasks.own import conversations
from datasets.tasks.own.files import read_rows

WORDS = ["tea", "sun", "warm", "we", "drink", "see", "Ünderground", "日本"]


def text(rng) -> str:
    return " ".join(rng.choice(WORDS, rng.integers(1, 5)))


def write(path, content: str | bytes):
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def table(rows: list[dict], delimiter: str = ",") -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, rows[0].keys(), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def lines(rows: list) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def rows_of(path, task: str, **columns):
    return read_rows([path], task, columns)


def conversation(said, source: str = "") -> Example:
    """The example of turns that are pairs of a role and a text."""
    return conversations.conversation([conversations.Turn(*turn) for turn in said], source)


def said(example) -> list[tuple[str, bool]]:
    """Each segment's text, and whether it is scored; that what is scored ends with the end token is asserted."""
    assert all(segment.end for segment in example.segments if segment.scored)
    return [(segment.text, segment.scored) for segment in example.segments]


def only(tmp_path, task: str, record: dict, **columns):
    """The example of the one record of a file."""
    (example,) = rows_of(write(tmp_path / "a.jsonl", lines([record])), task, **columns).examples
    return example


def messages(*turns, keys=("role", "content")) -> list[dict]:
    return [dict(zip(keys, turn, strict=True)) for turn in turns]


def pairs(numbers) -> list[dict]:
    return [{"prompt": f"question {number}", "completion": f"answer {number}"} for number in numbers]


def task_of(name: str, path=None, **settings):
    run = {"task": name, "data": path and str(path)} | settings
    return tasks.settled(tasks.find(name, run), run)


def texts(dataset) -> list[str]:
    return ["|".join(segment.text for segment in example.segments) for example in dataset]
