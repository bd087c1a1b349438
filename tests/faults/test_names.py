"""Names that are no ordinary text: of folders, of people at home, in recipes. One line, or they work."""

import json
import os
import shutil
import sys

import pytest
import yaml

from common.terminal import visible
from tests.faults import ground
from tests.faults.input_checks import PASSED, assert_refused

NOBODY = "~nosuchuser/x"
NOT_UTF8 = os.fsdecode(b"caf\xff")
IMPOSSIBLE = {"NUL": "a\0b", "half a character": "a\ud800b"}
TEXTS = ("task", "model", "data_dir", "output_dir", "tuning", "lora_targets", "added_tokens", "lora_bias", "device")


@pytest.fixture
def line(world, tmp_path):
    script, *options = ground.training(world, tmp_path / "run", "--max-steps", 2)
    return [script.removesuffix(".py"), *options]


@pytest.mark.parametrize("name", [NOBODY, f"{NOBODY}/{NOT_UTF8}"])
def test_a_home_folder_of_nobody_is_told_wherever_a_model_is_named(checks, world, tmp_path, line, name):
    shown = visible(name)
    assert_refused(checks.run(*line, "--model", name), shown, "home folder")
    assert_refused(checks.run("generate", "--model", name, "--prompt", "a"), shown, "home folder")
    assert_refused(checks.run("evaluate", "--model", name, "--data-dir", world / "data"), shown, "home folder")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({"model": name}))
    assert_refused(checks.run("train", "--config", recipe), shown, "home folder")


@pytest.mark.parametrize("text", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
@pytest.mark.parametrize("field", TEXTS)
def test_a_recipe_cannot_name_what_no_name_can_hold(checks, tmp_path, field, text):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({field: text}))
    assert_refused(checks.run("train", "--config", recipe, "--output-dir", tmp_path / "run"), recipe, field[:4])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", [*IMPOSSIBLE.values(), NOBODY, NOT_UTF8, "x" * 5000])
def test_a_base_that_an_adapter_cannot_have_is_told(checks, undisturbed, tmp_path, text):
    run = shutil.copytree(undisturbed, tmp_path / "run")
    (run / "arguments.yaml").unlink()
    config = json.loads((run / "adapter_config.json").read_text()) | {"base_model_name_or_path": text}
    (run / "adapter_config.json").write_text(json.dumps(config))
    assert_refused(checks.run("generate", "--adapter", run, "--prompt", "a"), *([] if len(text) > 4000 else [run]))


@pytest.mark.parametrize("option", ["--added-tokens", "--task", "--model", "--data-dir", "--config", "--lora-targets"])
def test_an_option_that_is_not_utf8_is_told(checks, line, option):
    assert_refused(checks.run(*line, option, NOT_UTF8), r"caf\udcff")


@pytest.mark.parametrize(
    "name", [pytest.param(b"caf\xff", marks=pytest.mark.faults), b"a\x1b]0;owned\x07\nb", "café 你好".encode()], ids=str
)
def test_a_run_in_a_folder_of_any_name_from_the_first_line_to_the_card(world, tmp_path, name):
    data, run = (shutil.copytree(world / "data", tmp_path / os.fsdecode(b"data-" + name)), tmp_path / os.fsdecode(name))
    arguments = ground.training(world, run, "--max-steps", 1, "--data-dir", data)
    ended = ground.command(arguments)
    assert ended.returncode == 0, ended.stderr
    assert "\x1b" not in ended.stdout and "\x1b]" not in ended.stderr
    card, kept = (run / "README.md").read_text(), yaml.safe_load((run / "arguments.yaml").read_text())
    assert "\x1b" not in card and "generate.py --adapter" in card
    assert kept["output_dir"] == str(run) and kept["data_dir"] == str(data)
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")
    resumed = ground.command(["train.py", "--output-dir", run, "--resume", "--max-steps", "2"])
    assert resumed.returncode == 0 and (run / "checkpoint-2").is_dir(), resumed.stderr


def test_the_checks_let_an_ordinary_line_pass(checks, line):
    assert checks.run(*line).status == PASSED and sys.getfilesystemencoding() == "utf-8"
