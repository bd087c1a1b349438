"""IMDB: movie reviews (Maas et al. 2011), as text for a language model; whether they praise or not is not used.

The publisher's layout is a file a review, `train/pos/0_9.txt`; the hub's copy is Parquet, others are JSON lines.
A share of the training reviews is set apart for validation.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from common.errors import UserError
from common.hub import fetch
from datasets import records
from datasets.encode import dialogue_prompt, packed
from datasets.example import WHOLE, Dataset, Example, Segment
from datasets.holdout import select_split, shares_of
from datasets.read import read_text
from datasets.task import TEXT, Task
from datasets.tasks.text import beginning

REPOSITORY = "stanfordnlp/imdb"
SAMPLE_DIR = Path(__file__).parents[1] / "samples" / "imdb"
FILES = {"train": "train", "validation": "train", "test": "test", WHOLE: "test"}  # the publisher's folder of each split
LINE_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
KAGGLE = "IMDB Dataset.csv"  # all reviews in one file; its columns are review and sentiment
VALIDATION = 0.03  # of the training reviews


def load(split: str, data_dir: Path | None) -> Dataset:
    """Reads a split from `data_dir` (aclImdb's folders, a format of `records`, or Kaggle's file), or from the hub.

    A single file is parted into the three splits. Reviews that stand there twice are left out. Raises UserError
    where it is missing or broken.
    """
    if data_dir is not None and (data_dir / KAGGLE).is_file():
        data_dir /= KAGGLE
    examples, dropped, seen = [], [], {}
    for where, text in _reviews(FILES[split], data_dir):
        review = clean(text)
        first = seen.setdefault(review, where)
        if not review or first != where:
            dropped.append(f"{where}: " + (f"the same as {first}" if review else "an empty review"))
            continue
        examples.append(Example((Segment(review, scored=True),), where))
    if not examples:
        first = f"; the first: {dropped[0]}" if dropped else ""
        raise UserError(f"{data_dir or REPOSITORY} has no review for {split}: give aclImdb's folder{first}")
    keys = [example.segments[0].text for example in examples]
    shares = shares_of(data_dir, {"validation": VALIDATION} if FILES[split] == "train" else {})
    return Dataset("imdb", split, select_split(examples, keys, split, shares), dropped)


def clean(review: str) -> str:
    """The review with the line breaks that its HTML marks."""
    lines = (line.strip() for line in LINE_BREAK.split(review))
    return "\n".join(line for line in lines if line)


def _reviews(name: str, data_dir: Path | None) -> Iterator[tuple[str, str]]:
    hub_file = f"plain_text/{name}-00000-of-00001.parquet"
    if data_dir is not None:
        root = data_dir / "aclImdb" if (data_dir / "aclImdb").is_dir() else data_dir
        if folders := [folder for folder in (root / name / "pos", root / name / "neg") if folder.is_dir()]:
            yield from ((str(file), read_text(file)) for folder in folders for file in sorted(folder.glob("*.txt")))
            return
        names = [*records.files(name), hub_file]
        path = records.find(data_dir, names, f"aclImdb's folder with {name}/pos and {name}/neg")
    else:
        path = fetch(REPOSITORY, hub_file, repo_type="dataset")
    for where, record in records.records(path, ("text",), aliases={"review": "text"}):
        yield where, records.text(record, "text", where, required=False)


TASK = Task("imdb", TEXT, ("prompt",), load, packed, beginning, dialogue_prompt, SAMPLE_DIR, parts_file=True)
