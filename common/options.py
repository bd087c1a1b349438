"""Options out of dataclasses: a field says once what is typed, read, shown as help, and which numbers it may hold.

    @dataclass(frozen=True)
    class Sampling:
        top_k: int = option(0, "draw from the k likeliest tokens", at_least=0)
        stop: tuple[str, ...] = option((), "end before any of these", metavar="TEXT")
        end_ids: tuple[int, ...] = ()  # without `option` nothing is typed

    parser = Parser(...)
    add_options(parser, Sampling)
    sampling = Sampling(**typed(Sampling, parser.parse_args()))

None as a default means that it is settled later, or "not used".
"""

import argparse
import dataclasses
import math
import types
import typing
from collections.abc import Callable, Container, Iterator
from typing import Any

from common.errors import ParameterError
from common.terminal import short

OPTION = "option"  # the key of a field's metadata
SHORTER = {"no_repeat_ngram_size": "--no-repeat-ngram"}  # options that are not called as their parameter

# the ways to bound a number: whether one is within, which NaN never is, and what must be said of it
BOUNDS = {
    "at_least": (lambda value, bound: bound <= value < math.inf, "at least {bound:,}"),
    "above": (lambda value, bound: bound < value < math.inf, "above {bound:,}"),
    "below": (lambda value, bound: value < bound, "below {bound:,}"),
    "at_most": (lambda value, bound: value <= bound, "at most {bound:,}"),
}


@dataclasses.dataclass(frozen=True)
class Option:
    """What the command line says about a field, and the numbers that it may hold."""

    help: str = ""
    choices: tuple[str, ...] | None = None
    type: Callable[[str], Any] | None = None  # makes a value of what was typed; else the field's own type does
    metavar: str | None = None
    flag: bool = False  # `--greedy` alone; else a bool has `--no-greedy` too
    short: tuple[str, ...] = ()  # values that are options of their own, too: `--int8` for `--weights int8`
    at_least: float | None = None
    above: float | None = None
    below: float | None = None
    at_most: float | None = None


def option(default: Any = dataclasses.MISSING, help: str = "", **more: Any) -> Any:
    """A dataclass's field that can be typed. Without a default it must be. `more` is an `Option`'s.

    A field of a list or a tuple takes one value or more, and again.
    """
    return dataclasses.field(default=default, metadata={OPTION: Option(help, **more)})


def options_of(cls: Any) -> dict[str, dataclasses.Field]:
    """The fields of a dataclass, or of an instance, that can be typed, by name."""
    return {field.name: field for field in dataclasses.fields(cls) if OPTION in field.metadata}


def option_name(parameter: str) -> str:
    """What is typed for a parameter: `--max-steps` for max_steps."""
    return SHORTER.get(parameter) or "--" + parameter.replace("_", "-")


def add_options(parser: Any, cls: type, without: Container[str] = ()) -> None:
    """Adds one option a field to a parser, or to a group of one, but for the fields called as in `without`.

    Options that are not typed are absent from what `parse_args` returns.
    """
    for field in (field for name, field in options_of(cls).items() if name not in without):
        said, kind = field.metadata[OPTION], _plain_type(field)
        settings: dict[str, Any] = {"help": _help(field), "default": argparse.SUPPRESS, "dest": field.name}
        settings |= {"required": True} if field.default is dataclasses.MISSING else {}
        if kind is bool:
            settings["action"] = "store_true" if said.flag else argparse.BooleanOptionalAction
        else:
            settings |= {"type": said.type or kind, "choices": said.choices, "metavar": _metavar(field)}
            settings |= {"nargs": "+", "action": "extend"} if _container(field) else {}
        place = parser.add_mutually_exclusive_group() if said.short else parser
        place.add_argument(name := option_name(field.name), **settings)
        for value in said.short:
            words = {"help": f"short for {name} {value}", "default": argparse.SUPPRESS}
            place.add_argument(option_name(value), action="store_const", const=value, dest=field.name, **words)


def typed(cls: type, parsed: argparse.Namespace) -> dict[str, Any]:
    """What was typed for the fields of a dataclass, by name; what else was parsed is left out."""
    return {
        name: tuple(value) if _container(field) is tuple else value
        for name, field in options_of(cls).items()
        if (value := getattr(parsed, name, dataclasses.MISSING)) is not dataclasses.MISSING
    }


def check_type(field: dataclasses.Field, value: Any) -> Any:
    """A value out of a file, as the field holds it. Raises ParameterError for one of another type."""
    kind, choices = _plain_type(field), field.metadata[OPTION].choices
    if value is None and field.default is None:
        return None
    if container := _container(field):
        value = [value] if isinstance(value, kind) else value
        if isinstance(value, list) and value and all(type(item) is kind for item in value):
            for item in value:
                _check_choice(field.name, choices, item)
            return container(value)
    elif kind is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 5e-4, without a dot, as text
        except (ValueError, OverflowError):  # OverflowError: a whole number of hundreds of digits
            pass
    elif type(value) is kind:
        _check_choice(field.name, choices, value)
        return value
    raise _must(field.name, "{kind}, not {value}", kind=kind.__name__, value=short(value))


def problems(instance: Any) -> Iterator[ParameterError]:
    """What is wrong with the numbers that a dataclass holds, at most one error a field. None is never wrong."""
    for name, field in options_of(instance).items():
        value = getattr(instance, name)
        for way, (within, words) in BOUNDS.items():
            bound = getattr(field.metadata[OPTION], way)
            if value is not None and bound is not None and not within(value, bound):
                words = "positive" if (way, bound) == ("above", 0) else words
                yield _must(name, words + ", not {value}", bound=bound, value=short(value))
                break


def _check_choice(name: str, choices: tuple[str, ...] | None, value: Any) -> None:
    if choices and value not in choices:
        raise _must(name, "one of {choices}, not {value}", choices=", ".join(choices), value=short(value))


def _must(name: str, words: str, **values: Any) -> ParameterError:
    return ParameterError(f"{{{name}}} must be {words}", **values)


def _help(field: dataclasses.Field) -> str:
    said, unsaid = field.metadata[OPTION], (None, (), dataclasses.MISSING)
    if field.default in unsaid or said.flag:
        return said.help
    return f"{said.help} (default: {field.default})".strip()


def _metavar(field: dataclasses.Field) -> str:
    said = field.metadata[OPTION]
    return said.metavar or ("{" + ",".join(said.choices) + "}" if said.choices else _plain_type(field).__name__.upper())


def _container(field: dataclasses.Field) -> type | None:
    """list or tuple, where a field holds several values."""
    origin = typing.get_origin(_without_none(field))
    return origin if origin in (list, tuple) else None


def _plain_type(field: dataclasses.Field) -> type:
    """int for int | None, str for list[str] | None."""
    annotation = _without_none(field)
    return typing.get_args(annotation)[0] if _container(field) else annotation


def _without_none(field: dataclasses.Field) -> Any:
    """The annotation of a field, of X | None only X."""
    annotation = field.type
    if isinstance(annotation, types.UnionType):
        annotation = next(kind for kind in typing.get_args(annotation) if kind is not type(None))
    return annotation
