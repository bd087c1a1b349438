"""`make lm-eval`: the items that the harness is given, and what counts as a difference."""

import json

import pytest

from datasets.tasks import dailydialog
from tools.lm_eval.compare import TOLERANCE, Judged, differences
from tools.lm_eval.items import TASKS, write_items


def test_every_turn_stands_before_its_own_reply_among_three_of_others(tmp_path):
    write_items(tmp_path)
    items = [json.loads(line) for line in (tmp_path / "replies.jsonl").read_text(encoding="utf-8").splitlines()]
    said = {
        (turn.text, reply.text)
        for split in ("test", "validation")
        for example in dailydialog.load(split, dailydialog.SAMPLE_DIR).examples
        for turn, reply in zip(example.segments, example.segments[1:], strict=False)
    }
    assert {(item["turn"], item["choices"][item["label"]]) for item in items} == said
    assert all(len({*item["choices"]}) == 4 for item in items)
    assert {item["label"] for item in items} == {0, 1, 2, 3}


def test_every_task_has_a_definition_and_items_that_are_the_same_each_time(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        write_items(tmp_path / name)
    for task in TASKS:
        assert f"data_files: {{test: {task}.jsonl}}" in (tmp_path / "first" / f"{task}.yaml").read_text()
        first, second = ((tmp_path / name / f"{task}.jsonl").read_bytes() for name in ("first", "second"))
        assert first == second != b""


def judged(figure=40.0, score="-12.5", greedy="True", text="We like tea.") -> Judged:
    """What the harness writes down: log-likelihoods and whether a text is the greedy one, as texts."""
    answers = {"replies": [[[[score, greedy]]]], "dialogues": [[["-80.0"]]], "answers": [[[text]]]}
    return Judged({"dialogues word_perplexity": figure}, answers, 1.0)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"figure": 40 * (1 + 2 * TOLERANCE)}, "dialogues word_perplexity"),
        ({"score": str(-12.5 * (1 + 2 * TOLERANCE))}, "1 items of replies"),
        ({"greedy": "False"}, "1 items of replies"),
        ({"text": "We like tea"}, "1 items of answers"),
    ],
)
def test_what_differs_is_named(other, named):
    assert differences(judged(**other), judged()) == [named]


def test_rounding_is_no_difference():
    nearly = judged(figure=40 * (1 + TOLERANCE / 2), score=str(-12.5 * (1 - TOLERANCE / 2)))
    assert differences(nearly, judged()) == []
