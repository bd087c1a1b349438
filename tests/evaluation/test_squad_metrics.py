"""The measures of answers against the official SQuAD script's scores and values worked by hand."""

import gzip
import hashlib
import importlib.util
import json
import os
import random
import sys

import pytest
from places import SHARED

from evaluation.metrics import exact_match, f1, normalize_answer

SQUAD = SHARED / "squad" / "dev-v1.1.json.gz"
needs_squad = pytest.mark.skipif(not SQUAD.is_file(), reason=f"SQuAD's questions are not in {SQUAD}")

# The script is its authors' and not part of this repository: what it said of the questions below stands here
# instead. SQUAD_EVALUATE=…/evaluate-v1.1.py pytest tests/evaluation/test_squad_metrics.py compares with the script.
OFFICIAL = os.environ.get("SQUAD_EVALUATE", "")
needs_official = pytest.mark.skipif(not OFFICIAL, reason="SQUAD_EVALUATE names no evaluate-v1.1.py to compare with")
OFFICIAL_ON_SQUAD = {"exact_match": 27.436140018921474, "f1": 43.7617524795758}
OFFICIAL_ON_SQUAD_EACH = "5cd86b897a920a086a54a11681b4ab135336db86c99d6cbac8f51badbb80f14a"  # digest(), below
OFFICIAL_ON_SYNTHETIC = {"exact_match": 41.45, "f1": 34.968763181263135}
OFFICIAL_ON_SYNTHETIC_EACH = "497467ad60b9f1c2fd6f703c1623a3b81d0972bf7971877154daa7e567bf8429"

PREDICTIONS = [  # of a question with these answers in this context
    lambda answers, context: answers[0],
    lambda answers, context: answers[-1].upper() + "!?",
    lambda answers, context: f"The {answers[0]}, an (a) answer",
    lambda answers, context: context,
    lambda answers, context: "",
    lambda answers, context: "the.",
    lambda answers, context: context.split(".")[0],
    lambda answers, context: f"“{answers[0]}”",  # no ASCII punctuation: these quotes stay
    lambda answers, context: "\u00a0".join(answers[0].split()),
    lambda answers, context: f"a–{answers[0]} — naïve façade ß İ 東京",
    lambda answers, context: " ".join(answers[0].split()[: len(answers[0].split()) // 2 + 1]),
    lambda answers, context: f"{answers[0]} {answers[0]}\n{answers[-1]}",
    lambda answers, context: answers[0].replace(" ", "-").replace("e", "é"),
    lambda answers, context: context[len(context) // 2 :][:40],
]


def predicted(questions):
    """[(prediction, answers)] of [(answers, context)], the same in every run."""
    return [
        (PREDICTIONS[i % len(PREDICTIONS)](answers, context), answers) for i, (answers, context) in enumerate(questions)
    ]


def squad_cases():
    articles = json.loads(gzip.decompress(SQUAD.read_bytes()))["data"]
    paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
    questions = [(question, paragraph["context"]) for paragraph in paragraphs for question in paragraph["qas"]]
    return predicted([([answer["text"] for answer in question["answers"]], text) for question, text in questions])


def synthetic_cases(count=2000):
    """Answers of few, odd words, so that they share some: articles, punctuation, other alphabets, nothing."""
    words = [
        "a",
        "The",
        "an",
        "A.M.",
        "an-",
        "U.S.",
        "don't",
        "50",
        "5,000",
        "é",
        "東京",
        "—",
        "the–the",
        "$",
        "theatre",
    ]
    chance = random.Random(0)

    def text(least):
        return " ".join(words[int(chance.random() * len(words))] for _ in range(least + int(chance.random() * 5)))

    return predicted([([text(0) for _ in range(1 + i % 4)], text(3)) for i in range(count)])


def in_total(scores):
    """In the script's order, one by one: sum() of a later Python would round otherwise."""
    exact = words = 0
    for of_question in scores:
        exact += of_question[0]
        words += of_question[1]
    return {"exact_match": 100.0 * exact / len(scores), "f1": 100.0 * words / len(scores)}


def digest(scores):
    return hashlib.sha256(json.dumps([[int(exact), float(words)] for exact, words in scores]).encode()).hexdigest()


def ours(cases):
    return [(exact_match(*case), f1(*case)) for case in cases]


def official(cases):
    spec = importlib.util.spec_from_file_location("official_squad_v11", OFFICIAL)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    best = script.metric_max_over_ground_truths
    return [(best(script.exact_match_score, *case), best(script.f1_score, *case)) for case in cases]


@needs_squad
def test_squads_dev_questions_score_as_the_official_script_said_each_and_in_total():
    scores = ours(squad_cases())
    assert len(scores) == 10_570
    assert in_total(scores) == OFFICIAL_ON_SQUAD
    assert digest(scores) == OFFICIAL_ON_SQUAD_EACH


def test_made_up_questions_score_as_the_official_script_said_each_and_in_total():
    scores = ours(synthetic_cases())
    assert in_total(scores) == OFFICIAL_ON_SYNTHETIC
    assert digest(scores) == OFFICIAL_ON_SYNTHETIC_EACH


@needs_squad
@needs_official
def test_squads_dev_questions_score_as_the_official_script_scores_them():
    assert ours(squad_cases()) == official(squad_cases())


@needs_official
def test_made_up_questions_score_as_the_official_script_scores_them():
    assert ours(synthetic_cases()) == official(synthetic_cases())


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("  The  Cat, a dog\tand an owl! ", "cat dog and owl"),
        ("theatre an-nex A.M.", "theatre annex am"),  # articles are whole words; punctuation leaves no gap
        ("“the” a–b", "“ ” –b"),  # other punctuation than ASCII's stays, and ends a word
        ("The (a) an.", ""),
        ("", ""),
    ],
)
def test_answers_are_normalised_as_squad_does(text, normal):
    assert normalize_answer(text) == normal


@pytest.mark.parametrize(
    ("prediction", "references", "exact", "words"),
    [
        ("the Norman people", ["Normans", "norman people"], 1, 1.0),
        ("in the city of Paris", ["Paris"], 0, 2 * (1 / 4) * 1 / (1 / 4 + 1)),
        ("red red blue", ["red red red green"], 0, 2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4)),  # as multisets
        ("London", ["Paris", "Rome"], 0, 0.0),
        ("", ["Paris"], 0, 0.0),
        ("The", ["a"], 1, 0.0),  # version 1.1: equal, yet without a word in common
        ("the.", [], 1, 1.0),  # version 2.0: no answer is right
        ("Paris", [], 0, 0.0),
    ],
)
def test_answers_score_as_worked_by_hand(prediction, references, exact, words):
    assert exact_match(prediction, references) == exact
    assert f1(prediction, references) == pytest.approx(words, abs=1e-12)


# SQUAD_EVALUATE=… PYTHONPATH=.:tests/support python tests/evaluation/test_squad_metrics.py: the constants above
if __name__ == "__main__":
    for cases in (squad_cases(), synthetic_cases()):
        scores = official(cases)
        sys.stdout.write(f"{in_total(scores)} {digest(scores)}\n")
