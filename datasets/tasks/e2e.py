"""E2E NLG: what is known of a restaurant, put into a sentence (Novikova et al. 2017, https://arxiv.org/abs/1706.09254).

The publisher's layout is a zip of three CSV files, a meaning and one text that says it a line: most meanings have
several. A meaning, `name[The Vaults], eatType[pub]`, is read as `name : The Vaults | Type : pub`, and the end token
parts it from its text: the spelling of the LoRA paper's experiment (https://github.com/microsoft/LoRA, examples/NLG).
Its texts there are these with spaces around punctuation; here they stay as people write.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from common.errors import ParameterError, UserError
from datasets import records
from datasets.example import WHOLE, Dataset, Example, Segment
from datasets.holdout import select_split, shares_of
from datasets.read import read_zip_member
from datasets.task import DESCRIBE, Task
from datasets.truncation import fitted, fitted_prompt

SAMPLE_DIR = Path(__file__).parents[1] / "samples" / "e2e"
FOLDER = "e2e-dataset"  # in the zip, whose name it is too
FILES = {"train": "trainset", "validation": "devset", "test": "testset_w_refs", WHOLE: "testset_w_refs"}
COLUMNS = ("mr", "ref")
ALIASES = {"meaning_representation": "mr", "human_reference": "ref"}  # of the hub's copy
RENAMED = {"eatType": "Type", "priceRange": "price", "familyFriendly": "family friendly"}
# a name neither begins nor ends with a space: else many spaces could be parted in as many ways, and take as long
ATTRIBUTE = re.compile(r"\s*([^\s\[\],|:](?:[^\[\],|:]*[^\s\[\],|:])?)\s*\[([^\[\]]*)\]\s*(?:,|$)")
SHOWN = 60  # characters of a meaning in a message


def load(split: str, data_dir: Path | None) -> Dataset:
    """Reads a split from `data_dir`: the publisher's zip, its folder, or a folder with either.

    A file of another format of `records` is parted into the three splits by its meanings. Each example's references
    are all texts of its meaning. Raises UserError where the split is missing or broken, or a meaning is none.
    """
    pairs, dropped = [], []
    for where, record in _records(split, data_dir):
        text = records.text(record, "ref", where, required=False)
        if not text:
            dropped.append(f"{where}: the text is empty")
            continue
        written = records.text(record, "mr", where)
        try:
            meaning = linearised(written)
        except UserError as error:
            raise UserError(f"{where}: {error}; mend or remove the line") from None
        pairs.append((meaning, text, where))
    if not pairs:
        first = f"; the first: {dropped[0]}" if dropped else ""
        raise UserError(f"{data_dir} has no text: give E2E's {FILES[split]}.csv{first}")
    texts: dict[str, list[str]] = {}
    for meaning, text, _ in pairs:
        texts.setdefault(meaning, []).append(text)
    references = {meaning: tuple(several) for meaning, several in texts.items()}
    examples = [
        Example((_given(meaning), Segment(f" {text}", scored=True)), where, references=references[meaning])
        for meaning, text, where in pairs
    ]
    shares = {} if data_dir.suffix == ".zip" else shares_of(data_dir, {})
    chosen = select_split(examples, [meaning for meaning, *_ in pairs], split, shares)
    return Dataset("e2e", split, chosen, dropped)


def prompt(meaning: str) -> Example:
    """What a description continues. Raises UserError as `linearised` does."""
    return Example((_given(linearised(meaning)),))


def linearised(meaning: str) -> str:
    """`name[The Vaults], eatType[pub]` as `name : The Vaults | Type : pub`; what is so already stays.

    Raises UserError for what is neither.
    """
    place, attributes = 0, []
    while place < len(meaning) and (found := ATTRIBUTE.match(meaning, place)):
        name, value = found[1], found[2].strip()
        attributes.append(f"{RENAMED.get(name, name)} : {value}")
        place = found.end()
    if attributes and not meaning[place:].strip():
        return " | ".join(attributes)
    parts = [part.partition(" : ") for part in meaning.strip().split(" | ")]
    if not all(name.strip() and value.strip() for name, _, value in parts):
        shown = meaning.strip()
        shown = shown if len(shown) <= SHOWN else shown[:SHOWN] + "…"
        raise UserError(f"a meaning is name[The Vaults], food[Thai] and so on, not {shown!r}")
    return meaning.strip()


def _given(meaning: str) -> Segment:
    return Segment(meaning, scored=False)


def _records(split: str, data_dir: Path | None) -> Iterator[records.Record]:
    name = FILES[split]
    if data_dir is None:
        raise ParameterError(
            "E2E is not on the hub as files of its own: get its publisher's e2e-dataset.zip, from "
            "https://github.com/tuetschek/e2e-dataset/releases, and give it with {data_dir}"
        )
    archive = data_dir if data_dir.suffix == ".zip" else data_dir / f"{FOLDER}.zip"
    if archive.is_file():
        member = f"{FOLDER}/{name}.csv"
        return records.records_of_csv(read_zip_member(archive, member), f"{archive}/{member}", COLUMNS)
    folder = data_dir / FOLDER if (data_dir / FOLDER).is_dir() else data_dir
    names = [*records.files(name), *records.files(split), f"default/{split}/0000.parquet"]
    path = records.find(folder, names, f"{FOLDER}.zip or its folder")
    return records.records(path, COLUMNS, aliases=ALIASES)


TASK = Task("e2e", DESCRIBE, ("meaning",), load, fitted, prompt, fitted_prompt, SAMPLE_DIR, parts_file=True)
