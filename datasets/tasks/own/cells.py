"""One value of a record: text, a number that is taken as text, or nothing."""

import math
import reprlib

from datasets import records


class Unusable(Exception):
    """A record that is sound, but of which nothing can be learnt: it is left out, and the report says why."""


def is_missing(value: object) -> bool:
    """Whether a cell is empty: nothing, or what tables write for nothing."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def cell(record: dict, name: str, where: str) -> str:
    """A field's text as it stands there, "" where it is missing; of a number its digits.

    Raises UserError where it is anything else, or cannot be written as UTF-8.
    """
    value = record.get(name)
    if is_missing(value):
        return ""
    if isinstance(value, float) and value.is_integer():  # tables write whole numbers as 1.0 where a cell is empty
        value = int(value)
    text = str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
    records.text({name: text}, name, where, required=False)  # for its errors: it is no text, or half of a character
    return text


def shown(value: object) -> str:
    """A value in an error, not too long to be read."""
    return reprlib.repr(value)
