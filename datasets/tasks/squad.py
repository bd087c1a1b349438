"""SQuAD: questions about a paragraph, answered in its words.

The publisher's layout is one JSON file a split; the hub's copy is Parquet. Version 2's questions without an
answer are taken as they are: the model then says nothing but the end token. The dev set is the test split, and
validation is set apart from train by whole articles, so that no paragraph of it is ever trained on.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from common.hub import fetch
from datasets import records
from datasets.example import WHOLE, Dataset, Example, Segment
from datasets.holdout import select_split, shares_of
from datasets.read import read_text
from datasets.task import QA, Task
from datasets.truncation import fitted, windowed_prompt

REPOSITORY = "rajpurkar/squad"
SAMPLE_DIR = Path(__file__).parents[1] / "samples" / "squad"
FILES = {"train": "train", "validation": "train", "test": "dev", WHOLE: "dev"}  # the publisher's file behind each split
HUB_FILES = {"train": "plain_text/train-00000-of-00001.parquet", "dev": "plain_text/validation-00000-of-00001.parquet"}
COLUMNS = ("id", "title", "context", "question", "answers")
VALIDATION = 0.02  # of train's articles
SHOWN = 60  # characters of an answer in a message


@dataclass(frozen=True)
class Question:
    """One question with its article's title, its paragraph, and every reference answer with its stated place.

    `context` and the answers are stripped, and the places moved accordingly.
    """

    name: str
    title: str
    context: str
    question: str
    answers: tuple[tuple[str, int], ...]
    source: str


def load(split: str, data_dir: Path | None) -> Dataset:
    """Reads a split from `data_dir` (SQuAD's JSON, also .gz, or Parquet), or from the hub.

    A single file is parted into the three splits. Raises UserError where it is missing or broken, or where it has
    no question that can be used.
    """
    path = _file(FILES[split], data_dir)
    examples, titles, dropped = [], [], []
    for question in _questions(path):
        example = _example(question)
        if example is None:
            answer = question.answers[0][0]
            dropped.append(f"{question.source}: the answer {answer[:SHOWN]!r} is not in its context")
            continue
        examples.append(example)
        titles.append(question.title)
    if not examples:
        first = f"; the first: {dropped[0]}" if dropped else ""
        raise UserError(f"{path} has no question: give SQuAD's {FILES[split]} file{first}")
    shares = shares_of(data_dir, {"validation": VALIDATION} if FILES[split] == "train" else {})
    examples = select_split(examples, titles, split, shares)
    unanswerable = sum(not example.references for example in examples)
    notes = [f"questions without an answer: {unanswerable:,}"] if unanswerable else []
    return Dataset("squad", split, examples, dropped, notes)


def prompt(context: str, question: str) -> Example:
    """What an answer continues."""
    return Example(_given(context, question))


def _given(context: str, question: str, keep: tuple[int, int] | None = None) -> tuple[Segment, ...]:
    """The prompt's segments; `keep` is where the answer stands in the stripped context.

    They part in front of spaces, where GPT-2's tokens part too: the ids are those of the joined text.
    """
    if keep:
        keep = (keep[0] + 1, keep[1] + 1)  # by the space that the segment begins with
    return (
        Segment("Context:", scored=False, end=False),
        Segment(f" {context.strip()}", scored=False, end=False, cut=True, keep=keep),
        Segment(f"\nQuestion: {question.strip()}\nAnswer:", scored=False, end=False),
    )


def _example(question: Question) -> Example | None:
    """The training example, which says the first answer that is found; None where none of them is."""
    said, keep = "", None
    for answer, start in question.answers:
        keep = _place(question.context, answer, start) if answer else None
        if keep:
            said = f" {answer}"
            break
    if question.answers and not said:
        return None
    segments = (*_given(question.context, question.question, keep), Segment(said, scored=True))
    references = tuple(answer for answer, _ in question.answers if answer)
    return Example(segments, question.source, name=question.name, references=references)


def _place(context: str, answer: str, start: int) -> tuple[int, int] | None:
    """Where the answer stands, [start, end): at `start`, or else as near to it as it is found; None if nowhere."""
    found = [context.find(answer, start), context.rfind(answer, 0, start + len(answer))]
    nearest = min((place for place in found if place >= 0), key=lambda place: abs(place - start), default=None)
    return None if nearest is None else (nearest, nearest + len(answer))


def _file(name: str, data_dir: Path | None) -> Path:
    if data_dir is None:
        return fetch(REPOSITORY, HUB_FILES[name], repo_type="dataset")
    names = [f"{name}-{version}.json{packed}" for version in ("v1.1", "v2.0") for packed in ("", ".gz")]
    return records.find(data_dir, [*names, HUB_FILES[name]], f"SQuAD's {name} file")


def _questions(path: Path) -> Iterator[Question]:
    return _from_parquet(path) if path.suffix == ".parquet" else _from_json(path)


def _from_parquet(path: Path) -> Iterator[Question]:
    """The hub's layout: a row a question, its answers as a list of texts beside a list of places."""
    for where, row in records.records(path, COLUMNS):
        columns = [_list(row["answers"], name, where) for name in ("text", "answer_start")]
        if len(columns[0]) != len(columns[1]):
            raise UserError(f"{where}: {len(columns[0])} answers but {len(columns[1])} places: get the file again")
        answers = [{"text": text, "answer_start": start} for text, start in zip(*columns, strict=True)]
        yield _question(row | {"answers": answers}, _text(row, "context", where), _text(row, "title", where), where)


def _from_json(path: Path) -> Iterator[Question]:
    """The publisher's layout: articles of paragraphs of questions."""
    try:
        document = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        fault = f"{error.msg}, column {error.colno}"
        raise UserError(f"{path}:{error.lineno}: this is not JSON ({fault}): get the file again") from None
    except (RecursionError, ValueError) as error:  # ValueError: a number of thousands of digits
        raise UserError(f"{path}: this is not SQuAD's JSON ({error}): get the file again") from None
    for number, article in enumerate(_list(document, "data", str(path)), 1):
        place = f"{path}: article {number}"
        paragraphs = _list(article, "paragraphs", place)
        title = _text(article, "title", place) if "title" in article else str(number)
        for index, paragraph in enumerate(paragraphs, 1):
            where = f"{place}, paragraph {index}"
            context = _text(paragraph, "context", where)
            for count, qa in enumerate(_list(paragraph, "qas", where), 1):
                yield _question(qa, context, title, f"{where}, question {count}")


def _question(qa: object, context: str, title: str, where: str) -> Question:
    if isinstance(qa, dict) and type(qa.get("id")) is int:
        qa = qa | {"id": str(qa["id"])}
    name = _text(qa, "id", where)
    where = f"{where} ({name})"
    shift = len(context) - len(context.lstrip())
    question = _text(qa, "question", where)
    impossible = qa.get("is_impossible", False)
    if not isinstance(impossible, bool):
        raise UserError(f"{where}: the field 'is_impossible' must be true or false")
    answers = [] if impossible else _list(qa, "answers", where)
    found = tuple(_answer(answer, shift, where) for answer in answers)
    return Question(name, title, context.strip(), question, found, where)


def _answer(answer: object, shift: int, where: str) -> tuple[str, int]:
    """The stripped answer, and its place in the context without the `shift` characters of space before that."""
    text = _text(answer, "text", where, required=False)
    start = answer.get("answer_start")
    if not isinstance(start, int) or isinstance(start, bool) or start < 0:
        raise UserError(f"{where}: an answer needs 'answer_start', the number of characters before it")
    return text.strip(), max(0, start + len(text) - len(text.lstrip()) - shift)


def _text(record: object, name: str, where: str, required: bool = True) -> str:
    """A field that is text, as it stands there. Raises UserError where it is not, or is empty although `required`."""
    if not isinstance(record, dict) or name not in record:
        raise UserError(f"{where}: the field {name!r} is missing: is it SQuAD's file?")
    records.text(record, name, where, required)
    return record[name]


def _list(record: object, name: str, where: str) -> list:
    value = record.get(name) if isinstance(record, dict) else None
    if not isinstance(value, list):
        raise UserError(f"{where}: the list {name!r} is missing: is it SQuAD's file?")
    return value


TASK = Task("squad", QA, ("context", "question"), load, fitted, prompt, windowed_prompt, SAMPLE_DIR, parts_file=True)
