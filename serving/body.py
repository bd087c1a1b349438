"""A request's body: read within bounds, parsed without surprises, and taken apart field by field.

Every field of the API is known here by one of three: it is read (`Fields.number` and the like), it may be there with a
value that changes nothing (`NEUTRAL`), or it is an error with its name. null means that a field is absent.
"""

import json
import math
import re
from collections.abc import Callable, Collection
from typing import Any

from serving.errors import invalid

SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")  # how a body spells half of a character
SHOWN = 60  # characters of a name or value from outside in a message
LARGEST = 2**63 - 1  # of whole numbers that have no other bound

NEUTRAL: dict[str, Callable[[Any], bool]] = {  # what OpenAI's clients may send though it asks for nothing
    "user": lambda value: isinstance(value, str),
    "safety_identifier": lambda value: isinstance(value, str),
    "prompt_cache_key": lambda value: isinstance(value, str),
    "metadata": lambda value: isinstance(value, dict),  # labels for stored answers, and none are stored
    "store": lambda value: value is False,
    "tools": lambda value: value == [],
    "functions": lambda value: value == [],
    "tool_choice": lambda value: value in ("none", "auto"),
    "function_call": lambda value: value in ("none", "auto"),
    "parallel_tool_calls": lambda value: isinstance(value, bool),
    "response_format": lambda value: value == {"type": "text"},
    "modalities": lambda value: value == ["text"],
    "service_tier": lambda value: value in ("auto", "default"),
    "suffix": lambda value: value == "",
}


def parse(data: bytes) -> dict[str, Any]:
    """The JSON object that a body is. Raises ApiError for anything else, and for what parsers read differently."""
    try:
        values = json.loads(data.decode("utf-8"), object_pairs_hook=_object, parse_constant=_constant)
        if SURROGATE.search(data):
            json.dumps(values, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise invalid(None, "a text in the body holds half of a character (a lone surrogate)") from None
    except UnicodeDecodeError:
        raise invalid(None, "the body is not UTF-8") from None
    except RecursionError:
        raise invalid(None, "the body is nested too deeply") from None
    except ValueError as error:  # also a number of thousands of digits
        raise invalid(None, f"the body is not JSON: {error}"[:200]) from None
    if not isinstance(values, dict):
        raise invalid(None, "the body must be a JSON object")
    return values


class Fields:
    """A body's fields. Each reader takes one out, and returns its default where it is absent or null.

    Readers raise ApiError, with the field's name, for what is of another type or out of bounds.
    """

    def __init__(self, values: dict[str, Any]):
        self._left = {name: value for name, value in values.items() if value is not None}

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def any(self, name: str, default: Any = None) -> Any:
        """A field as it stands there."""
        return self._left.pop(name, default)

    def text(self, name: str, default: str | None = None) -> str | None:
        """A text."""
        value = self.any(name, default)
        if value is not default and not isinstance(value, str):
            raise invalid(name, f"must be a text, not {kind(value)}")
        return value

    def required_text(self, name: str) -> str:
        """A text that must be there and must not be empty."""
        if not (value := self.text(name)):
            raise invalid(name, "is missing" if value is None else "is empty")
        return value

    def flag(self, name: str) -> bool:
        """true or false, which it is where it is not there."""
        value = self.any(name, False)
        if not isinstance(value, bool):
            raise invalid(name, f"must be true or false, not {kind(value)}")
        return value

    def number(
        self, name: str, default: float | None = None, *, least: float, most: float, above: bool = False
    ) -> float | None:
        """A number within [least, most], with `above` in (least, most]."""
        value = self.any(name, default)
        if value is default:
            return default
        if not is_number(value):
            raise invalid(name, f"must be a number, not {kind(value)}")
        if not least <= value <= most or (above and value == least):
            low = "above" if above else "at least"
            raise invalid(name, f"must be {low} {least:g} and at most {most:g}, not {short(value)}")
        return float(value)

    def whole(
        self, name: str, default: int | None = None, *, least: int = 0, most: int = LARGEST, why: str = ""
    ) -> int | None:
        """A whole number within [least, most]; `why` says where the bound comes from."""
        value = self.any(name, default)
        if value is default:
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            raise invalid(name, f"must be a whole number, not {kind(value)}")
        if not least <= value <= most:
            raise invalid(name, f"must be {least} to {most}{why and ' ' + why}, not {short(value)}")
        return value

    def choice(self, name: str, default: str, values: Collection[str]) -> str:
        """One of several words."""
        value = self.any(name, default)
        if not isinstance(value, str) or value not in values:
            raise invalid(name, f"must be one of {', '.join(values)}, not {short(value)}")
        return value

    def end(self) -> None:
        """Raises ApiError for the first field that nobody has read and that is not NEUTRAL."""
        for name, value in self._left.items():
            neutral = NEUTRAL.get(name)
            if neutral is None:
                raise invalid(short_text(name), "is not supported here: leave it out", "unsupported_parameter")
            if not neutral(value):
                raise invalid(name, "is not supported: leave it out", "unsupported_parameter")


def kind(value: Any) -> str:
    """What a value of JSON is called."""
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), "null")


def is_number(value: Any) -> bool:
    """Whether a value of JSON is a number, and a finite one: 1e999 is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -math.inf < value < math.inf


def short(value: Any) -> str:
    """A value in a message."""
    if isinstance(value, list | dict):
        return kind(value)
    return short_text(json.dumps(value, ensure_ascii=False))


def short_text(text: str) -> str:
    """A text in a message, so long that one still reads it."""
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in an object")
    return found


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")
