"""The values of a JSON file: one a line, one array of all, or one after another over as many lines as each has."""

import json
import re
from collections.abc import Iterator

from common.errors import UserError

NOT_SPACE = re.compile(r"\S")


def values(content: str, path: object) -> Iterator[tuple[str, object]]:
    """Each value and its place, "file:line" or "file: record number", of a file's text, whatever the file is called.

    Raises UserError, naming the line, for what is not JSON.
    """
    first = re.search(r"\S[^\n]*", content)
    if first is None:
        return
    alone = NOT_SPACE.search(content, first.end()) is None
    if not alone and _is_json(first[0]):
        yield from _of_lines(content, path)
        return
    try:
        found = list(_in_sequence(content, path))
    except UserError:
        if _is_json(content.rstrip().rpartition("\n")[2]):  # a value a line, and the first is broken
            yield from _of_lines(content, path)
        raise
    array = found[0][1] if len(found) == 1 else None
    if isinstance(array, list) and (not array or isinstance(array[0], dict)):
        found = [(f"{path}: record {number}", row) for number, row in enumerate(array, 1)]
    yield from found


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _of_lines(content: str, path: object) -> Iterator[tuple[str, object]]:
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            yield where, json.loads(line)
        except (ValueError, RecursionError) as error:  # besides what is broken: too long a number, too deep a list
            raise UserError(f"{where}: this is not JSON ({_reason(error)}): mend or remove the line") from None


def _in_sequence(content: str, path: object) -> Iterator[tuple[str, object]]:
    """Each value and the line in which it begins."""
    decoder, end, line = json.JSONDecoder(), 0, 1
    while begins := NOT_SPACE.search(content, end):
        line += content.count("\n", end, begins.start())
        where = f"{path}:{line}"
        try:
            value, after = decoder.raw_decode(content, begins.start())
        except (ValueError, RecursionError) as error:
            wrong = f"{path}:{error.lineno}" if isinstance(error, json.JSONDecodeError) else where
            raise UserError(f"{wrong}: this is not JSON ({_reason(error)}): mend the file") from None
        yield where, value
        line, end = line + content.count("\n", begins.start(), after), after


def _reason(error: Exception) -> object:
    return f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
