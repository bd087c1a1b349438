"""Which of a model's modules a name, an expression or a pattern means, decided as PEFT decides. No Jittor here."""

import re
from collections.abc import Callable, Iterable

from common.errors import UserError
from common.limit import at_most
from common.terminal import short

PROJECTIONS = ("c_attn", "c_proj", "c_fc")
EMBEDDINGS = ("wte", "wpe")
ALL_LINEAR = "all-linear"  # PEFT's word for every projection
MATCHING_SECONDS = 2  # a regular expression from elsewhere may take years
NAMED = 8  # fields in an error message

_ANY_LAYER = r".*?\.[^.]*\.(?P<layer>\d+)\."  # the first number of a path, as PEFT finds it without `layers_pattern`


def targets_of(layers: int, head: bool = True) -> list[str]:
    """The dotted paths of what can be a target in a GPT-2 of so many blocks; `lm_head` where it has that `head`."""
    names = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    blocks = [f"transformer.h.{layer}.{name}" for layer in range(layers) for name in names]
    return [*(f"transformer.{name}" for name in EMBEDDINGS), *blocks, *(["lm_head"] if head else [])]


def is_called(path: str, names: Iterable[str]) -> bool:
    """Whether one of `names` is a module's dotted path, or the end of it."""
    return any(path == name or path.endswith(f".{name}") for name in names)


def is_named(path: str, field: str, names: str | Iterable[str]) -> bool:
    """Whether `names`, a list of them or one regular expression for the whole path, means the module at `path`."""
    return matches(re.fullmatch, field, names, names, path) if isinstance(names, str) else is_called(path, names)


def is_within(path: str, field: str, name: str) -> bool:
    """Whether `name`, which PEFT takes for an expression here, is one of the path's parts, or some in a row."""
    return matches(re.match, field, name, within(name), path)


def within(name: str) -> str:
    """The expression with which PEFT looks for `name` among a path's parts."""
    return rf"(^|.*\.){name}($|\..*)"


def ending(pattern: str) -> str:
    """The expression with which PEFT looks for a key of `rank_pattern` or `alpha_pattern` at a path's end."""
    return rf"(.*\.)?({pattern})$"


def numbered(pattern: str) -> str:
    """The expression with which PEFT finds a block's number behind `pattern`, one of `layers_pattern`."""
    return rf"(?:^|.*?\.){pattern}\.(?P<layer>\d+)\."


def value_for(path: str, field: str, patterns: dict, otherwise):
    """The value of the first of `patterns` that matches the end of `path`; else `otherwise`."""
    return next(
        (value for key, value in patterns.items() if matches(re.match, field, key, ending(key), path)), otherwise
    )


def layer_number(path: str, patterns: list[str]) -> int | None:
    """The number of the block that a path lies in, by the first of `layers_pattern` that matches; None in no block."""
    for expression in map(numbered, patterns) if patterns else [_ANY_LAYER]:
        with _in_time("layers_pattern", expression, path):
            if found := re.match(expression, path):
                return int(found["layer"])
    return None


def matches(match: Callable, field: str, given: str, expression: str, path: str) -> bool:
    """Whether `expression`, made of what `field` was `given`, matches. Raises UserError where that takes too long."""
    with _in_time(field, given, path):
        return match(expression, path) is not None


def _in_time(field: str, given: str, path: str):
    endless = UserError(f"{field} {short(given)} takes too long to match {path}: write it plainer")
    return at_most(MATCHING_SECONDS, endless)


def listed(names: Iterable[str]) -> str:
    """Names from outside, the first NAMED of them, in quotes."""
    names = list(names)
    return ", ".join(map(short, names[:NAMED])) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
