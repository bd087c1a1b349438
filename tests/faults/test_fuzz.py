"""Random command lines and random damage to every kind of input: a clean end, in seconds, and nothing written."""

import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.faults import ground
from tests.faults.input_checks import PASSED, SECONDS, assert_refused

FEW, MANY = 20, 250  # examples of each of the two tests: in `make test`, and in `make test-faults`
QUIET = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}

words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
numbers = st.one_of(
    st.integers(-5, 300),
    st.sampled_from([10**30, -(10**30), 2**31, 2**63]),
    st.floats(allow_subnormal=False),  # Jittor, where it is loaded, makes them 0
    st.sampled_from(["1e400", "nan", "0x10", "1_000", "٣", "--3"]),
)
values = st.one_of(numbers, words, st.sampled_from(["nano", "sample", "lora", "full", "cpu", "squad", "linear", ""]))

# mostly what an option's parser takes, so that what comes after it is reached
what_follows = st.one_of(st.tuples(st.integers(-2, 300)), st.tuples(values), st.lists(values, max_size=2))
SWITCHES = (
    "--lora-rslora",
    "--lora-dora",
    "--lora-b-bias",
    "--skip-nonfinite",
    "--resume",
    "--greedy",
    "--json",
    "--loss-only",
)

# what is typed behind a sound command line; options that name a file to be written are left out
OPTIONS = {
    "train": """--task --model --data-dir --tuning --lora-r --lora-alpha --lora-dropout --lora-targets --lora-bias
        --lora-exclude --lora-layers --lora-rank-pattern --lora-alpha-pattern --lora-dora --lora-b-bias --lora-init
        --lora-modules-to-save --lora-rslora --lora-plus-ratio --added-tokens --head-dropout --epochs --max-steps
        --batch-size --gradient-accumulation --learning-rate --schedule --warmup-steps --weight-decay --max-grad-norm
        --max-length --seed --eval-every --eval-limit --save-every --patience --skip-nonfinite --device --config
        --resume""",
    "generate": """--adapter --model --mode --task --prompt --context --question --input --max-new-tokens --greedy
        --temperature --top-k --top-p --min-p --repetition-penalty --no-repeat-ngram --num-beams --length-penalty --stop
        --samples --best-of --batch-size --seed --json --device""",
    "evaluate": """--task --data-dir --split --model --adapter --max-length --limit --batch-size --loss-only
        --max-new-tokens --num-beams --json --device""",
}
FILES = (
    "model/config.json",
    "model/tokenizer.json",
    "model/model.safetensors",
    "data/train/dialogues_train.txt",
    "data/validation/dialogues_validation.txt",
    "run/arguments.yaml",
    "run/adapter_config.json",
    "run/adapter_model.safetensors",
)


@st.composite
def command_lines(draw) -> tuple[str, list[str]]:
    script = draw(st.sampled_from(sorted(OPTIONS)))
    typed = []
    for option in draw(st.lists(st.sampled_from(OPTIONS[script].split()), min_size=1, max_size=3)):
        typed += [option, *map(str, [] if option in SWITCHES else draw(what_follows))]
    return script, typed


@st.composite
def damages(draw):
    """A file of the world and a function that damages its bytes."""
    kind, junk = draw(st.sampled_from(["cut", "flip", "insert", "replace"])), draw(st.binary(min_size=1, max_size=40))
    part, bit = draw(st.floats(0, 1, exclude_max=True, allow_subnormal=False)), draw(st.integers(0, 7))

    def damage(data: bytes) -> bytes:
        place = int(part * len(data))
        if kind == "flip":
            return data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :]
        return {"cut": data[:place], "insert": data[:place] + junk + data[place:], "replace": junk}[kind]

    return draw(st.sampled_from(FILES)), damage


def assert_clean(answer) -> None:
    """Help, a run that may begin, or a single line; within seconds."""
    assert answer.seconds < SECONDS, answer
    if answer.status not in (0, PASSED):
        assert_refused(answer)


@pytest.fixture(scope="module")
def copy(world, undisturbed, tmp_path_factory):
    """A world of its own, to be damaged."""
    root = tmp_path_factory.mktemp("fuzz")
    for name in ("model", "data"):
        shutil.copytree(world / name, root / name)
    shutil.copytree(undisturbed, root / "run")
    return root


def sound(script: str, root) -> list:
    """A command line of the script with which nothing is wrong."""
    if script == "train":
        return ground.training(root, "new-run", "--max-steps", 2)[1:]
    model = ["--model", root / "model", "--adapter", root / "run"]
    data = ["--data-dir", root / "data", "--split", "validation"]
    return model + (["--prompt", "hello"] if script == "generate" else data)


def fuzz_command_lines(checks, copy, scratch, examples: int) -> None:
    before = ground.contents(copy)

    @settings(max_examples=examples, **QUIET)
    @given(command_lines())
    def check(typed):
        script, more = typed
        assert_clean(checks.run(script, *sound(script, copy), *more))
        assert not list(scratch.iterdir()), "nothing is written"

    check()
    assert ground.contents(copy) == before


def fuzz_inputs(checks, copy, scratch, examples: int) -> None:
    @settings(max_examples=examples, **QUIET)
    @given(damages())
    def check(damage):
        name, change = damage
        whole = (copy / name).read_bytes()
        (copy / name).write_bytes(change(whole))
        try:
            script = "train" if name.startswith("data") else "generate"
            assert_clean(checks.run(script, *sound(script, copy)))
            assert not list(scratch.iterdir()), "nothing is written"
        finally:
            (copy / name).write_bytes(whole)

    check()


def test_random_command_lines_end_cleanly(checks, copy, scratch):
    fuzz_command_lines(checks, copy, scratch, FEW)


def test_damaged_inputs_end_cleanly(checks, copy, scratch):
    fuzz_inputs(checks, copy, scratch, FEW)


@pytest.mark.faults
def test_many_random_command_lines_end_cleanly(checks, copy, scratch):
    fuzz_command_lines(checks, copy, scratch, MANY)


@pytest.mark.faults
def test_inputs_damaged_in_many_ways_end_cleanly(checks, copy, scratch):
    fuzz_inputs(checks, copy, scratch, MANY)
