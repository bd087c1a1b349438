"""How much a run validates: figures worked by hand, properties of random runs, and what is drawn and said."""

import dataclasses
import math

import numpy as np
import pytest
import tiny

from datasets.encode import Encoded, EncodedSet
from training.arguments import TrainingArguments, read_recipe, resolve
from training.budget import FEWEST, FORWARD, MOST_TOKENS, SHARE, Budget, count_validations, draw
from training.setup import read_inputs


@pytest.mark.parametrize(
    "examples, tokens, trained, steps, usual, expected",
    [
        # the demo: 24 dialogues, 8 epochs of 160; fewer than FEWEST are never parted. 16,714 may be validated: 15 times
        (24, 1_105, 8 * 8_357, 160, 16, (16, 24, False)),
        # SQuAD, 3 epochs of 85,972 questions: 25,000 tokens, 184.6 each; all of it once is 0.3 of 11.8 million
        (1_627, 300_382, 3 * 15_667_949, 32_241, 3_224, (3_224, 135, True)),
        # the same, 20 updates of 8 × 182 tokens: 7,280 may be validated, less than 50 examples. Once before, once after
        (1_627, 300_382, 20 * 1_456, 20, 2, (20, 50, False)),
        # 400 updates: 145,600 tokens, 9,231 for 50 examples: 14 more validations; 11 of 71 examples
        (1_627, 300_382, 400 * 1_456, 400, 40, (40, 71, False)),
        # 50 of 300 tokens, 20 updates of 8: 12,000 may be validated, not even all once. Once before, once after
        (50, 15_000, 20 * 8 * 300, 20, 2, (20, 50, False)),
        # the same, 200 updates: 120,000 tokens are 8 validations, one of them before the first update
        (50, 15_000, 200 * 8 * 300, 200, 20, (29, 50, False)),
        # emotion: 2,000 messages of 20 tokens; 48,000 trained on: all of it once, 200,000 left for 11 validations
        (2_000, 40_000, 3 * 320_000, 6_000, 600, (600, 909, True)),
        # the whole set each time is a tenth: 11 × 4,000 of 44,000 tokens
        (200, 4_000, 176_000, 100, 10, (10, 200, False)),
    ],
    ids=[
        "the demo",
        "SQuAD",
        "SQuAD, 20 updates",
        "SQuAD, 400 updates",
        "50, 20 updates",
        "50, 200 updates",
        "emotion",
        "just a tenth",
    ],
)
def test_what_is_validated_is_as_worked_by_hand(examples, tokens, trained, steps, usual, expected):
    budget = Budget(examples, tokens, trained)
    every = budget.every(steps, usual)
    limit = budget.limit(count_validations(steps, every))
    assert (every, limit, limit < examples and budget.bears_whole) == expected


def test_all_validations_of_any_run_take_a_tenth_of_it_or_are_few_and_small(rng):
    """In thousands of runs of any length, on data of any size."""
    parted = 0
    for _ in range(3000):
        examples, length = int(10 ** rng.uniform(0, 5)), 10 ** rng.uniform(0.5, 3)
        steps, step_tokens = int(10 ** rng.uniform(0, 5)), 10 ** rng.uniform(1, 5)
        budget = Budget(examples, math.ceil(examples * length), steps * step_tokens)
        usual = max(1, steps // 10)
        every = budget.every(steps, usual)
        times = count_validations(steps, every)
        limit = budget.limit(times)
        assert usual <= every <= max(usual, steps) and min(FEWEST, examples) <= limit <= examples
        if examples <= FEWEST:
            assert limit == examples  # the little there is is never parted
        each = limit / examples * budget.tokens
        assert each <= MOST_TOKENS or limit == min(FEWEST, examples)
        whole = budget.tokens if limit < examples and budget.bears_whole else 0
        cost = FORWARD * (times * each + whole)
        if limit > min(FEWEST, examples):
            assert cost <= SHARE * budget.trained * (1 + 1e-9)
            parted += limit < examples
        elif cost > 1.5 * SHARE * budget.trained:
            assert times <= 3, "before the first update, after the last, and one more where the steps do not divide"
    assert parted > 100


def items(rng, count: int) -> EncodedSet:
    ids = [rng.integers(0, 99, rng.integers(2, 9)).astype(np.int32) for _ in range(count)]
    return EncodedSet([Encoded(row, row) for row in ids], list(range(count)))


def test_what_is_drawn_is_the_same_each_time_part_of_any_larger_draw_and_in_its_order(rng, seed):
    data = items(rng, 200)
    small, large = (draw(data, limit, seed) for limit in (60, 90))
    assert draw(data, 60, seed).kept == small.kept == sorted(set(small.kept)) and len(small) == 60
    assert set(small.kept) < set(large.kept) and small.kept != draw(data, 60, seed + 1).kept
    assert all(item is data[index] for item, index in zip(small.items, small.kept, strict=True))
    assert small.kept != list(range(60))  # not a publisher's first articles
    assert draw(data, 200, seed) is data and draw(data, 999, seed) is data


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    tiny.model_folder(root / "model", seed=1)
    tiny.dialogue_folder(root / "data", seed=2, train=40, validation=60)
    tiny.dialogue_folder(root / "small", seed=2)
    return root


def inputs_of(world, data="data", **settings):
    """What is read for a run, and what was said of it."""
    said = []
    given = {"model": str(world / "model"), "data_dir": str(world / data), "output_dir": str(world / "run")}
    return read_inputs(TrainingArguments(**(given | settings)), said.append), said


def test_a_small_validation_set_is_validated_whole_and_nothing_is_said(world):
    inputs, said = inputs_of(world, "small", max_steps=2)
    assert inputs.plan.validation is inputs.plan.whole_validation and len(inputs.plan.validation) == 7
    assert not inputs.plan.measures_whole and len(said) == len(inputs.reports) == 2


def test_the_demo_validates_all_it_has_at_the_steps_that_the_readme_shows(tmp_path):
    """The settings of `make demo`."""
    settings = {"epochs": 8.0, "learning_rate": 3e-3, "lora_r": 32, "lora_alpha": 64.0}
    given = TrainingArguments(model="nano", data_dir="sample", output_dir=str(tmp_path), **settings)
    inputs = read_inputs(given, lambda text: None)
    plan = inputs.plan
    found = plan.total_steps, plan.arguments.eval_every, len(plan.validation), len(plan.whole_validation)
    assert found == (160, 16, 24, 24)


@pytest.mark.parametrize(
    "settings, words",
    [
        (
            {"max_steps": 2},
            "50 of 60 examples, the same each time, drawn with the seed (--eval-limit); all of them would",
        ),
        (
            {"epochs": 30.0, "eval_limit": 9},
            "9 of 60 examples, the same each time, drawn with the seed (--eval-limit); at",
        ),
    ],
    ids=["a short run", "a limit that was given"],
)
def test_a_part_is_said_in_one_line_and_stands_in_the_card(world, settings, words):
    inputs, said = inputs_of(world, **settings)
    assert said[-1].startswith(f"each validation: {words}") and "\n" not in said[-1]
    assert inputs.reports == tuple(said) and len(said) == 3
    assert inputs.plan.measures_whole == ("best weights" in said[-1])


def test_a_recipe_of_a_run_and_a_longer_run_validate_the_same_examples(world, tmp_path):
    inputs, _ = inputs_of(world, max_steps=30)
    inputs.arguments.save(tmp_path / "arguments.yaml")
    again = resolve({}, read_recipe(tmp_path / "arguments.yaml"))
    assert again == inputs.arguments and again.eval_limit == 50
    for arguments in (again, dataclasses.replace(again, max_steps=3000)):
        found = read_inputs(arguments, say=lambda text: None)
        assert found.arguments == arguments and found.plan.validation.kept == inputs.plan.validation.kept
