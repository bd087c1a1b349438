"""Tables written as text, row by row, the header first: each row's place, "file:line", and its cells."""

import csv
import io
import itertools
import re
from collections.abc import Iterator

from common.errors import UserError
from datasets.read import LIMIT

Row = tuple[str, list[str]]

TRIED, TRIED_TEXT = 20, 1 << 20  # records, and characters, by which it is seen what separates fields
# what spreadsheets alone write: quotes doubled within quotes, or a header of which each name is in quotes
QUOTED = re.compile(r'(?:^|\t)"(?:[^"\n\t]|"")*""(?:[^"\n\t]|"")*"(?=\t|$)|\A"[^"\n]*"(?:\t"[^"\n]*")*$', re.MULTILINE)


def comma_separated(content: str, path: object, separator: str | None = None) -> Iterator[Row]:
    """Comma-separated values; what is in quotes may hold commas, quotes and lines.

    Without a `separator`, semicolons or tabs separate them where they fit better, as spreadsheets of some languages
    write it, and what a first line `sep=;` of theirs says. Raises UserError, with the line, where a row is broken or
    longer or shorter than the header.
    """
    csv.field_size_limit(LIMIT)
    begin = re.match(r'\n*(?:"?sep=(.)"?\n)?', content)
    skipped = content.count("\n", 0, begin.end())
    content = content[begin.end() :]
    return _equal(_csv_rows(content, path, separator or begin[1] or _separator(content), skipped))


def tab_separated(content: str, path: object) -> Iterator[Row]:
    """Tab-separated values whose quotes are plain characters, as in GLUE's files. Raises as `comma_separated` does."""
    content = content if "\n" in content else content.replace("\r", "\n")
    lines = enumerate(content.split("\n"), 1)
    return _equal((f"{path}:{number}", line.split("\t")) for number, line in lines if line.strip())


def of_spreadsheet(content: str, path: object) -> Iterator[Row]:
    """Tab-separated values with CSV's quotes, or with plain ones where those do not fit.

    They do not where a cell would hold a tab and a line's end: there a quote of one record has met another's. Raises as
    `comma_separated` does.
    """
    try:
        rows = list(comma_separated(content, path, "\t"))
        if not any("\n" in cell and "\t" in cell for _, cells in rows for cell in cells):
            return iter(rows)
    except UserError:
        if QUOTED.search(content):
            raise
    return tab_separated(content, path)


def _csv_rows(content: str, path: object, separator: str, skipped: int) -> Iterator[Row]:
    spaced = _spaced(content, separator)
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=separator, strict=True, skipinitialspace=spaced)
    line = 1
    try:
        for cells in reader:
            if cells:
                yield f"{path}:{line + skipped}", cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}:{line + skipped}: this is not CSV ({error}): mend the line") from None


def _spaced(content: str, separator: str) -> bool:
    """Whether a space stands behind each separator of the header, before quotes perhaps."""
    _, *others = re.match(".*", content)[0].split(separator)
    return bool(others) and all(name.startswith(" ") for name in others)


def _separator(content: str) -> str:
    """Which of the usual marks parts the first records best."""
    return max(",;\t", key=lambda mark: _parted(content, mark))


def _parted(content: str, mark: str) -> tuple[int, int]:
    """How many of the first records a mark parts into as many fields as the header, and how many fields these are."""
    reader = csv.reader(io.StringIO(content[:TRIED_TEXT], newline=""), delimiter=mark, strict=True)
    counts = []
    try:
        for cells in itertools.islice(reader, TRIED):
            counts.append(len(cells))
    except csv.Error:
        pass  # what came before it counts
    return (counts.count(counts[0]), counts[0]) if counts and counts[0] > 1 else (0, 0)


def _equal(rows: Iterator[Row]) -> Iterator[Row]:
    """The rows. Raises UserError for one that has more or fewer cells than the first, the header."""
    count = None
    for where, cells in rows:
        count = count or len(cells)
        if len(cells) != count:
            raise UserError(f"{where}: {len(cells)} fields where the header names {count}: mend the line")
        yield where, cells
