"""How long a run will take: the line itself, by a clock that is played, and when it is said."""

import pytest

from generation.scoring import Score
from training.forecast import Forecast, duration
from training.metrics_log import MetricsLog

COMPILING = (999, 100.0)  # the first update: long, and not of the kind


def lines(forecast: Forecast, updates, total: int) -> list[str | None]:
    """What is said after each of the updates (tokens, seconds) of a run of `total`."""
    return [forecast.update(*update, total - step) for step, update in enumerate([COMPILING, *updates], 1)]


def test_after_five_updates_besides_the_first_the_whole_run_is_told_once():
    # 0.01 s a token: 32,850 updates of 110 tokens and 330,000 tokens of validation, less six that were made
    forecast = Forecast(step_tokens=110, validation_tokens=330_000, validations=10)
    *before, line = lines(forecast, [(100, 1.0), (50, 0.5), (200, 2.0), (110, 1.1), (110, 1.1)], 32_850)
    assert before == [None] * 5
    # 0.01 · (32,844 · 110 + 330,000) s = 39,428 s
    assert line == "about 10 h 57 min for 32,844 more updates (1.1 s each) and 10 validations"
    assert forecast.update(100, 1.0, 32_843) is None


def test_slow_updates_are_told_after_two():
    forecast = Forecast(step_tokens=100, validation_tokens=0, validations=1)
    assert lines(forecast, [(100, 30.0), (200, 60.0)], 5) == [
        None,
        None,
        "about 1 min for 2 more updates (30 s each) and 1 validation",
    ]


def test_one_update_that_compiled_once_more_changes_nothing():
    steady = [(100, 0.05)] * 4
    for slow in range(5):
        updates = [*steady[:slow], (100, 9.0), *steady[slow:]]
        said = lines(Forecast(100, 0, 1), updates, 1006)
        assert said[-1] == "about 50 s for 1,000 more updates (0.05 s each) and 1 validation"


def test_nothing_is_said_where_nothing_is_left():
    assert lines(Forecast(100, 0, 1), [(100, 1.0)] * 5, 6) == [None] * 6


@pytest.mark.parametrize(
    "seconds, words",
    [
        (0.2, "1 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (3_569, "59 min"),
        (3_571, "1 h"),
        (12_000, "3 h 20 min"),
        (86_369, "23 h 59 min"),
        (86_371, "1 day"),
        (187_200, "2 days 4 h"),
    ],
)
def test_durations_are_said_in_two_units_at_most(seconds, words):
    assert duration(seconds) == words


def test_the_line_is_said_above_the_bar_by_the_log(tmp_path, capfd):
    log = MetricsLog(tmp_path, 40, Forecast(100, 400, 4))
    log.validation(0, 0.0, Score(3.0, 50, None, 7))
    for step in range(1, 12):
        record = {"step": step, "split": "train", "loss": 2.0, "learning_rate": 1e-3, "tokens": 100}
        log.step(record, 50.0 if step == 1 else 1.0)
    log.close()
    out, error = capfd.readouterr()
    assert out == "about 38 s for 34 more updates (1 s each) and 4 validations\n"
    assert "train: " in error and "about" not in error
