"""Options that are made of a dataclass's fields: how they are typed, read, shown and checked."""

import argparse
import math
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from common.command import Parser
from common.errors import UserError
from common.options import add_options, check_type, option, option_name, options_of, problems, typed


@dataclass(frozen=True)
class Settings:
    path: Path = option(help="where", metavar="FILE")
    name: str | None = option(None, "what it is called; else nothing")
    size: int = option(8, "how large", at_least=1, at_most=10**6)
    share: float | None = option(None, "of the whole; else all", above=0, below=1)
    kind: str = option("a", choices=("a", "b"))
    greedy: bool = option(False, "the likeliest", flag=True)
    scaled: bool = option(False, "by the root")
    stop: tuple[str, ...] = option((), "ends it", type=str.upper, metavar="TEXT")
    weights: list[float] | None = option(None, "one for each")
    no_repeat_ngram_size: int = option(0, "never the same n twice")
    hidden: int = 3


def parse(*line: str) -> dict:
    parser = Parser(prog="a")
    add_options(parser.add_argument_group("several"), Settings)
    parser.add_argument("--other", default=1)
    return typed(Settings, parser.parse_args(line))


def test_a_field_is_typed_as_its_annotation_says_and_what_was_not_typed_is_absent():
    assert parse("--path", "x") == {"path": Path("x")}
    line = "--path x --name n --size 3 --share .5 --kind b --greedy --no-scaled --stop a b --weights 1 2"
    assert parse(*line.split(), "--no-repeat-ngram", "4") == {
        **{"path": Path("x"), "name": "n", "size": 3, "share": 0.5, "kind": "b", "greedy": True, "scaled": False},
        **{"stop": ("A", "B"), "weights": [1.0, 2.0], "no_repeat_ngram_size": 4},
    }


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "the following arguments are required: --path"),
        ("--path x --size many", "--size: invalid int value"),
        ("--path x --kind c", "--kind: invalid choice"),
        ("--path x --hidden 3", "--hidden"),
        ("--path x --no-greedy", "--no-greedy"),
        ("--path x --no-repeat-ngram-size 3", "--no-repeat-ngram-size"),
    ],
)
def test_what_no_field_takes_is_refused(line, words):
    with pytest.raises(UserError, match=words):
        parse(*line.split())


def test_help_says_each_default_once():
    parser = argparse.ArgumentParser()
    add_options(parser, Settings)
    told = " ".join(parser.format_help().split())
    for words in (
        "--path FILE where --name STR what it is called; else nothing --size INT how large (default: 8)",
        "--share FLOAT of the whole; else all --kind {a,b} (default: a) --greedy the likeliest",
        "--scaled, --no-scaled by the root (default: False) --stop TEXT [TEXT ...] ends it --weights",
    ):
        assert words in told


def test_only_fields_that_say_so_are_options():
    assert [*options_of(Settings)] == [field.name for field in fields(Settings) if field.name != "hidden"]
    assert options_of(Settings(Path())).keys() == options_of(Settings).keys()
    assert option_name("max_steps") == "--max-steps"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": 1, "share": 0.5}, None),
        ({"share": None, "size": 10**6}, None),
        ({"size": 0}, "--size must be at least 1, not 0"),
        ({"size": 10**6 + 1}, "--size must be at most 1,000,000, not 1000001"),
        ({"share": 0.0}, "--share must be positive, not 0.0"),
        ({"share": 1.0}, "--share must be below 1, not 1.0"),
        ({"share": math.nan}, "--share must be positive, not nan"),
        ({"share": math.inf}, "--share must be positive, not inf"),
        ({"size": 1 << 99999}, "--size must be at most 1,000,000, not a number of thousands of digits"),
    ],
)
def test_numbers_out_of_range_are_told(values, message):
    found = [error.with_names(option_name) for error in problems(Settings(Path(), **values))]
    assert found == ([] if message is None else [message])


def test_every_field_that_is_wrong_is_told():
    assert len([*problems(Settings(Path(), size=-1, share=2.0))]) == 2


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("name", None, None),
        ("size", 3, 3),
        ("share", "5e-4", 5e-4),
        ("share", 1, 1.0),
        ("kind", "b", "b"),
        ("stop", ["a"], ("a",)),
        ("stop", "a", ("a",)),
        ("scaled", True, True),
    ],
)
def test_a_value_out_of_a_file_is_read_as_its_field_holds_it(name, value, read):
    found = check_type(options_of(Settings)[name], value)
    assert found == read and type(found) is type(read)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("size", None, "size must be int, not None"),
        ("size", True, "size must be int, not True"),
        ("share", "half", "share must be float, not 'half'"),
        ("share", 10**400, "share must be float, not 1000"),
        ("kind", "c", "kind must be one of a, b, not 'c'"),
        ("stop", [3], "stop must be str, not [3]"),
        ("stop", [], "stop must be str, not []"),
        ("scaled", "yes", "scaled must be bool, not 'yes'"),
    ],
)
def test_a_value_of_another_type_is_refused(name, value, message):
    with pytest.raises(UserError) as caught:
        check_type(options_of(Settings)[name], value)
    assert str(caught.value).startswith(message)
