"""Numbers from outside that would take all memory or all time: refused before anything of that size is made."""

import shutil

import pytest
import yaml

from common.errors import UserError
from common.memory import total
from gpt2_jittor.checkpoint.config import GPT2Config
from gpt2_jittor.runtime import demand
from tests.faults import ground
from tests.faults.input_checks import PASSED, assert_refused

HUGE = ["99999999999", "1" + "0" * 30, "1" + "0" * 400]
TRAINING = ["--gradient-accumulation", "--max-steps", "--warmup-steps", "--max-length", "--lora-r", "--epochs"]
DECODING = ["--best-of", "--samples", "--num-beams"]
HARMLESS = {  # sizes of which nothing is made: no more is done than the data, the model or a step ask for
    "train": ["--batch-size", "--eval-limit", "--eval-every", "--save-every", "--patience", "--seed"],
    "generate": ["--batch-size", "--max-new-tokens", "--seed", "--top-k", "--no-repeat-ngram"],
    "evaluate": ["--batch-size", "--limit", "--max-new-tokens"],
}


@pytest.fixture(scope="module")
def data(world, tmp_path_factory):
    """Dialogues with a test split."""
    folder = shutil.copytree(world / "data", tmp_path_factory.mktemp("data") / "data")
    (folder / "test").mkdir()
    shutil.copy(folder / "validation" / "dialogues_validation.txt", folder / "test" / "dialogues_test.txt")
    return folder


@pytest.fixture
def line(world, data, tmp_path):
    """Says how a command is typed that would pass the checks."""
    _, *training = ground.training(world, tmp_path / "run", "--data-dir", data)
    lines = {
        "train": training,
        "generate": ["--model", world / "model", "--prompt", "a"],
        "evaluate": ["--model", world / "model", "--task", "dailydialog", "--data-dir", data],
    }
    return lambda script: [script, *lines[script]]


@pytest.mark.parametrize("script", HARMLESS)
def test_lines_without_huge_numbers_pass_the_checks(checks, line, script):
    assert checks.run(*line(script)).status == PASSED


@pytest.mark.parametrize("number", HUGE)
@pytest.mark.parametrize("option", TRAINING)
def test_a_training_of_any_size_is_refused(checks, line, option, number):
    if number == HUGE[0] and option in ("--max-steps", "--warmup-steps"):
        pytest.skip("a long run, and nothing that is made beforehand")
    assert_refused(checks.run(*line("train"), option, number), option, *(["at most"] if "steps" in option else []))


@pytest.mark.parametrize("number", HUGE)
@pytest.mark.parametrize("option", DECODING)
def test_a_generation_of_any_size_is_refused(checks, line, option, number):
    more = ["--greedy"] if option == "--num-beams" else []
    assert_refused(checks.run(*line("generate"), option, number, *more), option)
    if option == "--num-beams":
        assert_refused(checks.run(*line("evaluate"), option, number), option, "vocabulary")


@pytest.mark.parametrize("script, option", [(script, name) for script, names in HARMLESS.items() for name in names])
def test_sizes_of_which_nothing_is_made_may_be_any(checks, line, script, option):
    for number in HUGE[:1]:
        assert checks.run(*line(script), option, number).status == PASSED


@pytest.mark.parametrize("number", HUGE)
def test_a_recipe_is_held_to_the_same_bounds(checks, line, tmp_path, number):
    recipe = tmp_path / "recipe.yaml"
    for name in ("gradient_accumulation", "lora_r", "max_length"):
        recipe.write_text(yaml.safe_dump({name: int(number)}))
        given = line("train")
        option = f"--{name.replace('_', '-')}"
        if option in given:
            place = given.index(option)
            del given[place : place + 2]
        assert_refused(checks.run(*given, "--config", recipe), option)


def test_an_update_takes_no_more_batches_than_an_epoch_has_or_a_thousand(checks, line):
    place = (given := line("train")).index("--gradient-accumulation")
    del given[place : place + 2]
    assert checks.run(*given, "--gradient-accumulation", 1024).status == PASSED
    refused = checks.run(*given, "--gradient-accumulation", 1025)
    assert_refused(refused, "--gradient-accumulation 1,025", "1,024")


@pytest.mark.parametrize(
    "option, race",
    [
        ("--time", "train"),
        ("--time", "start"),
        ("--batch-size", "train"),
        ("--batch-size", "start"),
        ("--new", "decode"),
    ],
)
def test_a_race_of_any_size_is_refused(option, race, monkeypatch):
    import benchmark

    for number in HUGE:
        monkeypatch.setattr("sys.argv", ["benchmark.py", race, option, number])
        with pytest.raises(UserError, match=f"{option}( |$)"):
            benchmark.parse()
    monkeypatch.setattr("sys.argv", ["benchmark.py", race])
    assert benchmark.parse().race == race


def test_what_fits_by_the_least_is_not_refused_and_what_does_not_is(monkeypatch):
    config = GPT2Config(n_embd=100, n_layer=10, n_head=1, n_positions=1000, vocab_size=1000)
    monkeypatch.setattr(demand, "total", lambda: 8 * 10**9)
    demand.check_training(config, 250, 1000, "x")  # 250,000 tokens x 10 layers x 800 numbers x 4 bytes: 8 GB
    with pytest.raises(UserError, match="16 GB of memory at least, this machine has 8 GB: lower x"):
        demand.check_training(config, 500, 1000, "x")
    demand.check_decoding(config, 990, 10**12, "x")  # 1000 positions x 10 layers x 200 numbers x 4 bytes: 8 MB each
    with pytest.raises(UserError, match="lower x"):
        demand.check_decoding(config, 1150, 10**12, "x")
    demand.check_forward(config, 2500, 1000, "x")
    with pytest.raises(UserError, match="lower x"):
        demand.check_forward(config, 5000, 1000, "x")


def test_this_machine_has_some_memory():
    assert 10**8 < total() < 10**14
