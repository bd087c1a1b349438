"""Plain text files of the user's own: every file is a document, learnt from its first word to its last.

A line that holds only <|endoftext|> parts a file into several documents. Elsewhere in a file, special tokens mean
themselves, as they do to transformers; in a prompt they are text. The files `validation.txt` and `test.txt` are set
apart; without the former, validation takes the end of the training text.

A folder's .txt files are read, whatever the case of their names; what else is in it is skipped, and named.
"""

import re
from pathlib import Path

from common.errors import ParameterError, UserError
from datasets import records
from datasets.encode import dialogue_prompt, packed
from datasets.example import Dataset, Example, Segment
from datasets.read import read_text
from datasets.task import TEXT, Task

SEPARATOR = "<|endoftext|>"
HELD_OUT = ("validation.txt", "test.txt")
VALIDATION_DOCUMENTS = 0.01  # of the documents, where no validation.txt is given
VALIDATION_TEXT = 0.05  # of the characters, where there is only one document
NAMED = 5  # skipped files in the report
TOKEN = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")  # what a special token looks like: no text is cut within one


def load(split: str, data_dir: Path | None) -> Dataset:
    """Reads a split of the folder or file `data_dir`.

    Raises UserError where there is no text for it.
    """
    if data_dir is None:
        raise ParameterError("the task text reads your own files: give a folder of .txt files with {data_dir}")
    files, held_out, skipped = _files(Path(data_dir))
    own = held_out.get(f"{split}.txt")
    if own:
        return _dataset(split, own, [])
    if split == "test":
        raise UserError(f"{data_dir} has no test.txt: give a folder with one, or use the validation split")
    if not files:
        raise UserError("; ".join([f"{data_dir} has no .txt to learn from: give a folder of text files", *skipped]))
    whole = _dataset(split, files, skipped)
    if "validation.txt" in held_out:
        return whole
    train, validation = _hold_out(whole.examples)
    return Dataset("text", split, train if split == "train" else validation, whole.dropped, whole.notes)


def beginning(prompt: str) -> Example:
    """The beginning of a document that generation goes on with."""
    return Example((Segment(prompt, scored=False, end=False),))


def _files(data_dir: Path) -> tuple[list[Path], dict[str, list[Path]], list[str]]:
    """The files to learn from, those that are set apart, by name, and a note on those that are skipped, if any."""
    if data_dir.is_file():
        is_table = data_dir.suffix.lower() in (*records.PACKED, ".parquet")
        return [data_dir], {}, [f"{data_dir.name} is read as it stands; complete reads its column `text`"] * is_table
    files, held_out, skipped = [], {}, []
    for path in sorted(data_dir.iterdir()):
        name = path.name.lower()
        if name.startswith(".") or not name.endswith(".txt") or not path.is_file():
            skipped.append(path.name + _kind(path))
        elif name in HELD_OUT:
            held_out.setdefault(name, []).append(path)
        else:
            files.append(path)
    if not skipped:
        return files, held_out, []
    named = ", ".join(skipped[:NAMED]) + (", ..." if len(skipped) > NAMED else "")
    return files, held_out, [f"skipped {len(skipped):,} that are no .txt files or hidden: {named}"]


def _kind(path: Path) -> str:
    if path.is_dir():
        return "/"
    return "" if path.is_file() else " (no regular file)"


def _dataset(split: str, files: list[Path], notes: list[str]) -> Dataset:
    examples, dropped = [], []
    for path in files:
        for line, text in _documents(read_text(path)):
            source = f"{path}:{line}"
            if text.strip():
                examples.append(Example((_document(text),), source))
            else:
                dropped.append(f"{source}: an empty document")
    if not examples:
        raise UserError(f"there is no text in {files[0]}" + " and its neighbours" * (len(files) > 1))
    return Dataset("text", split, examples, dropped, notes)


def _document(text: str, end: bool = True) -> Segment:
    return Segment(text, scored=True, end=end, special=True)


def _documents(text: str) -> list[tuple[int, str]]:
    """The documents of a file, each with the line that it begins on."""
    found, begin, lines = [], 0, text.split("\n")
    for index, line in enumerate([*lines, SEPARATOR]):
        if line.strip() == SEPARATOR:
            found.append((begin + 1, "\n".join(lines[begin:index]).rstrip("\n")))
            begin = index + 1
    if len(found) > 1 and not found[-1][1].strip():
        found.pop()  # the separator ended the last document; what follows it is the end of the file
    return found


def _hold_out(examples: list[Example]) -> tuple[list[Example], list[Example]]:
    """Parts the training examples into training and validation; neither is empty."""
    if len(examples) > 1:
        count = max(1, int(len(examples) * VALIDATION_DOCUMENTS))
        return examples[:-count], examples[-count:]
    (example,) = examples
    text = example.segments[0].text
    cut = _border(text)
    line = int(example.source.rpartition(":")[2]) + text.count("\n", 0, cut)
    source = f"{example.source.rpartition(':')[0]}:{line}"
    first, last = text[:cut].rstrip(), text[cut:].lstrip()
    if not first or not last:
        raise UserError(f"{example.source}: too little text to hold some out: add a validation.txt")
    # the first part does not end here, so no end token follows it
    return (
        [Example((_document(first, end=False),), example.source)],
        [Example((_document(last),), source)],
    )


def _border(text: str) -> int:
    """Where the last part of a text begins: behind an end token, else behind a paragraph, a line, a word."""
    wanted = int(len(text) * (1 - VALIDATION_TEXT))
    for border in (SEPARATOR, "\n\n", "\n", " "):
        found = text.rfind(border, len(text) // 2, wanted)
        if found >= 0:
            return found + len(border)
    return next((token.start() for token in TOKEN.finditer(text) if token.start() < wanted < token.end()), wanted)


TASK = Task("text", TEXT, ("prompt",), load, packed, beginning, dialogue_prompt)
