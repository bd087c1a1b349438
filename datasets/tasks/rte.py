"""RTE, of GLUE: whether a text entails a sentence.

The publisher's files are tab-separated; the hub's copy is Parquet, whose labels are numbers. The publisher's test
set has no labels, so the dev set is the test split, and validation is set apart from train, all sentences about a
text together.
"""

from pathlib import Path

from common.hub import fetch
from datasets import records
from datasets.example import WHOLE, Dataset, Example, Segment
from datasets.holdout import select_split, shares_of
from datasets.task import CLASSIFY, Task
from datasets.truncation import fitted, fitted_prompt

REPOSITORY = "nyu-mll/glue"
SAMPLE_DIR = Path(__file__).parents[1] / "samples" / "rte"
LABELS = ("entailment", "not_entailment")
COLUMNS = ("sentence1", "sentence2", "label")
FILES = {"train": "train", "validation": "train", "test": "dev", WHOLE: "dev"}  # the publisher's file behind each split
HUB_FILES = {"train": "rte/train-00000-of-00001.parquet", "dev": "rte/validation-00000-of-00001.parquet"}
OTHERS = {"dev": ("val", "validation")}  # SuperGLUE's name of the file, and one that others give it
ALIASES = {"premise": "sentence1", "hypothesis": "sentence2"}  # SuperGLUE's columns
VALIDATION = 0.1  # of train's texts


def load(split: str, data_dir: Path | None) -> Dataset:
    """Reads a split from `data_dir` (GLUE's .tsv, or another format of `records`), or from the hub.

    A single file is parted into the three splits. Raises UserError where it is missing or empty, or where a line is
    broken or has no such label.
    """
    name = FILES[split]
    if data_dir is None:
        path = fetch(REPOSITORY, HUB_FILES[name], repo_type="dataset")
    else:
        names = records.files(name, *OTHERS.get(name, ()))
        path = records.find(data_dir, [*names, HUB_FILES[name]], f"RTE's {name} file")
    examples, texts = [], []
    for where, record in records.records(path, COLUMNS, aliases=ALIASES):
        text, sentence = (records.text(record, column, where) for column in COLUMNS[:2])
        label = records.label(record["label"], LABELS, where)
        examples.append(Example(prompt(text, sentence).segments, where, label=label))
        texts.append(text)
    shares = shares_of(data_dir, {"validation": VALIDATION} if name == "train" else {})
    return Dataset("rte", split, select_split(examples, texts, split, shares))


def prompt(sentence1: str, sentence2: str) -> Example:
    """What the class is read from: the end token parts the two; none follows, for the last token is read."""
    return Example(
        (
            Segment(sentence1.strip(), scored=False, end=True, cut=True),
            Segment(sentence2.strip(), scored=False, end=False, cut=True),
        )
    )


FIELDS = ("sentence1", "sentence2")
TASK = Task("rte", CLASSIFY, FIELDS, load, fitted, prompt, fitted_prompt, SAMPLE_DIR, LABELS, parts_file=True)
