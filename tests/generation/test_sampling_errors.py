"""Options of sampling that are out of range, and logits from which nothing can be drawn: refused in words."""

import numpy as np
import pytest

from common.errors import UserError
from generation.sampling import make_sampler

pytestmark = pytest.mark.filterwarnings("error")  # nothing here may leave numpy's warnings on a terminal

INF = np.inf


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_k", -1),
        ("top_k", 2.5),
        ("top_p", -0.1),
        ("top_p", 1.01),
        ("top_p", float("nan")),
        ("min_p", -0.1),
        ("min_p", 1.01),
        ("min_p", float("nan")),
        ("no_repeat_ngram_size", -1),
        ("no_repeat_ngram_size", 1.5),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", float("inf")),
        ("seed", -3),
    ],
)
def test_an_option_out_of_range_is_refused_by_its_name(option, value):
    with pytest.raises(UserError) as caught:
        make_sampler(**{option: value})
    assert str(caught.value).startswith(f"{option} must be ")
    assert str(caught.value).endswith(f"not {value}")


@pytest.mark.parametrize(
    "options", [{}, {"greedy": True}, {"top_k": 1}, {"top_p": 0.5}, {"min_p": 0.5}, {"top_k": 2, "top_p": 0.1}]
)
@pytest.mark.parametrize("row", [[1.0, np.nan, 0.0], [1.0, INF, 0.0], [-INF, -INF, -INF], [np.nan] * 3])
def test_logits_from_which_nothing_can_be_drawn_are_refused(row, options):
    with pytest.raises(UserError, match="NaN or infinity"):
        make_sampler(**options)(np.array([row], dtype=np.float32), [[]])


def test_banning_every_id_is_refused():
    with pytest.raises(UserError, match="no_repeat_ngram_size"):
        make_sampler(no_repeat_ngram_size=1)(np.array([[2.0, 1.0]], dtype=np.float32), [[0, 1]])


@pytest.mark.parametrize("options", [{"temperature": 1e-44}, {"temperature": 1e-300}, {"repetition_penalty": 1e-44}])
def test_options_that_overflow_the_logits_are_refused(options):
    with pytest.raises(UserError, match="less extreme"):
        make_sampler(**options)(np.array([[2.0, 1.0]], dtype=np.float32), [[0, 1]])
