"""Errors that name parameters, and what a command makes of them."""

import pickle

import pytest
from commands import error_of

from common.errors import ErrorCollector, ParameterError, UserError, joined, listed
from common.options import option_name

BRACES = "{top_p} and {0} and {"


def test_a_library_names_parameters_and_a_command_its_options():
    error = ParameterError(
        "{top_p} and {no_repeat_ngram_size} exclude\n {each}: {value:,}", each="each other", value=9999
    )
    assert str(error) == "top_p and no_repeat_ngram_size exclude each other: 9,999"
    assert error.with_names(option_name) == "--top-p and --no-repeat-ngram exclude each other: 9,999"
    program = "from common.errors import ParameterError; raise ParameterError('{} is {top_p}', '{top_p}')"
    assert error_of(program) == (2, "error: {top_p} is --top-p\n")


def test_braces_in_a_value_stay_as_they_are():
    for name_of in (str, option_name):
        assert ParameterError("{value}; {}", BRACES, value=BRACES).with_names(name_of) == f"{BRACES}; {BRACES}"
        assert UserError(BRACES).with_names(name_of) == BRACES


def test_an_error_inside_another_names_options_as_well():
    inner = ParameterError("{seed} is {value}", value=BRACES)
    outer = ParameterError("{where}: {error}; see {model}", where="a{b}", error=joined([inner, UserError("c")], ", "))
    assert str(outer) == f"a{{b}}: seed is {BRACES}, c; see model"
    assert outer.with_names(option_name) == f"a{{b}}: --seed is {BRACES}, c; see --model"


def test_names_are_listed():
    assert (
        ParameterError("leave out " + listed(["lora_r", "seed"])).with_names(option_name)
        == "leave out --lora-r, --seed"
    )


def test_errors_are_gathered_once_each_and_told_together_as_far_as_anybody_reads():
    errors = ErrorCollector()
    errors.errors.append(ParameterError("{seed} is wrong"))
    for number in (0, 0, *range(1, 10)):
        with errors.collect():
            raise ParameterError("{top_k} {number}", number=number)
    with pytest.raises(UserError) as caught:
        errors.raise_all()
    several = "; ".join(f"--top-k {number}" for number in range(7))
    assert caught.value.with_names(option_name) == f"--seed is wrong; {several}; and 3 more"
    assert str(caught.value).startswith("seed is wrong; top_k 0; ")


def test_nothing_is_told_where_nothing_was_gathered():
    errors = ErrorCollector()
    with errors.collect():
        pass
    errors.raise_all()


def test_an_error_comes_out_of_another_process_as_it_went_in():
    error = ParameterError("{0}: {lora_r} holds {value}", "a {brace}", value="{x}")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.with_names(option_name)) == (str(error), error.with_names(option_name))
