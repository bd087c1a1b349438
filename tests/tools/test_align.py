"""`make align`: both sides make the same updates, and a difference is said and ends in status 1."""

import json
import math
import sys

import numpy as np
import peft
import pytest
import tiny
import transformers
from commands import PNG, assert_one_line_error, command
from places import ROOT

from tools.align import __main__ as align
from tools.align import inputs, race, report
from tools.align.turns import Data, Prompt, Rows, write_data
from training.arguments import resolve
from training.curves import read_run

LOGS = ("ours", "torch", "ours-dropout", "torch-dropout")


def updates(folder, name: str) -> list[dict]:
    records = map(json.loads, (folder / f"{name}.jsonl").read_text().splitlines())
    return [record for record in records if record["split"] == "train"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Folders of a model with dropout, and of dialogues."""
    root = tmp_path_factory.mktemp("world")
    tiny.model_folder(root / "model", seed=1, dropout=0.1)
    tiny.dialogue_folder(root / "data", seed=2)
    return root


def test_20_updates_of_dialogues_agree_and_everything_is_written(world, tmp_path):
    folder = tmp_path / "align"
    options = ["--model", world / "model", "--data-dir", world / "data", "--output-dir", folder, "--steps", 20]
    options += ["--batch-size", 3, "--gradient-accumulation", 2, "--learning-rate", "1e-2", "--schedule", "cosine"]
    options += [
        "--lora-targets",
        "q",
        "v",
        "c_fc",
        "--lora-plus-ratio",
        2,
        "--label-smoothing",
        0.1,
        "--weight-decay",
        "0.1",
        "--lora-dropout",
        0.2,
    ]
    result = command("-m", "tools.align", *options)
    assert result.returncode == 0, result.stderr
    ours, theirs, dropped, theirs_dropped = (updates(folder, name) for name in LOGS)
    assert [len(log) for log in (ours, theirs, dropped, theirs_dropped)] == [20] * 4
    losses = [np.array([update["loss"] for update in log]) for log in (ours, theirs)]
    np.testing.assert_allclose(*losses, rtol=0, atol=1e-3)  # the contract
    for name, bound in (("grad_norm", 1e-3), ("learning_rate", 1e-12)):
        found, expected = ([update[name] for update in log] for log in (ours, theirs))
        np.testing.assert_allclose(found, expected, rtol=bound, err_msg=name)
    assert [update["tokens"] for update in ours] == [update["tokens"] for update in theirs]
    assert losses[0][-5:].mean() < losses[0][:5].mean() - 0.1  # something was learnt
    # each has masks, and masks of its own: no update's loss is what it was, or what the other's is
    for one, other in ((ours, dropped), (theirs, theirs_dropped), (dropped, theirs_dropped)):
        assert min(abs(a["loss"] - b["loss"]) for a, b in zip(one, other, strict=True)) > 1e-6
    validations = [read_run(folder / f"{name}.jsonl").validation for name in LOGS[:2]]
    assert validations[0].steps.tolist() == validations[1].steps.tolist() and 0 in validations[0].steps
    np.testing.assert_allclose(validations[0].losses, validations[1].losses, rtol=0, atol=1e-3)
    told, text = json.loads((folder / "align.json").read_text()), (folder / "align.md").read_text()
    largest = np.abs(losses[0] - losses[1]).max()
    assert told["held"] and told["largest"] == pytest.approx(largest) and f"{largest:.1e} at most" in result.stdout
    assert "| greedy replies |  |  | 4 of 4 identical |" in text and "| greedy replies |  |  | 4 of 4" in result.stdout
    assert "held: losses of 20 updates" in text and (folder / "align.png").read_bytes().startswith(PNG)
    base = transformers.GPT2LMHeadModel.from_pretrained(world / "model")  # the start is PEFT's to read
    b = peft.PeftModel.from_pretrained(base, folder / "start").transformer.h[0].attn.c_attn.lora_B["default"].weight
    assert not b.any()


@pytest.mark.long
def test_a_classifier_with_a_trained_head_agrees(world, tmp_path):
    options = ["--model", world / "model", "--data-dir", "sample", "--task", "emotion", "--max-length", 60]
    options += ["--output-dir", tmp_path / "align", "--steps", 6, "--learning-rate", "1e-2", "--lora-dora"]
    result = command("-m", "tools.align", *options)
    assert result.returncode == 0, result.stderr
    ours, theirs = (updates(tmp_path / "align", name) for name in LOGS[:2])
    for name, bound in (("loss", 1e-3), ("grad_norm", 5e-3)):
        found, expected = ([update[name] for update in log] for log in (ours, theirs))
        np.testing.assert_allclose(found, expected, rtol=bound, err_msg=name)
    assert "greedy replies" not in result.stdout


# --- without either library: sides whose losses are written here


def script(folder, name: str, losses: list[float], fails: int | None = None) -> race.Contestant:
    """A side that says these losses, or fails at an update."""
    path = folder / f"{name}.py"
    path.write_text(
        f"""
import sys
nan, inf = float("nan"), float("inf")
sys.path[:0] = [{str(ROOT / "tools" / "align")!r}, {str(ROOT / "benchmarks")!r}]
from turns import Turns
from worker import serve
class Side:
    def update(self, step, batches):
        if step == {fails}:
            sys.exit("out of memory")
        return {losses!r}[step - 1], 2.0, 0.5
    def validate(self, batches):
        return 3.0
    def reply(self, prompt):
        return [7, 8]
serve(lambda settings: Turns(Side(), settings))
"""
    )
    return race.Contestant(
        name, str(path), {"data": str(folder / "data.npz"), "steps": 3, "eval_every": 2, "repeat": 1}
    )


def rows(tokens: int) -> Rows:
    ids = np.arange(2 * tokens, dtype=np.int32).reshape(2, tokens)
    return Rows(ids, ids, np.ones_like(ids))


@pytest.fixture
def sides(tmp_path):
    """Makes both sides of given losses."""
    write_data(tmp_path / "data.npz", [[rows(3)], [rows(4), rows(2)], [rows(5)]], [rows(3)], [Prompt(np.arange(3), 5)])

    def make(ours: list[float], theirs: list[float], fails: int | None = None) -> list[race.Contestant]:
        """The two contestants; PyTorch's fails at an update, if any."""
        return [script(tmp_path, race.OURS, ours), script(tmp_path, race.THEIRS, theirs, fails)]

    return make


@pytest.mark.parametrize(
    ("theirs", "status", "words"),
    [
        ([5.0, 4.0, 3.0], 0, "held: losses of 3 updates without dropout differ by 0.0e+00 at most (step 1)"),
        ([5.0, 4.0009, 3.0], 0, "held: losses of 3 updates without dropout differ by 9.0e-04 at most (step 2)"),
        ([5.0, 4.0, 2.9985], 1, "NOT HELD: losses of 3 updates without dropout differ by 1.5e-03 at most (step 3)"),
        ([5.0, math.nan, 3.0], 1, "NOT HELD: losses of 3 updates without dropout differ by inf at most (step 2)"),
        ([5.0, math.inf, 3.0], 1, "NOT HELD: losses of 3 updates without dropout differ by inf at most (step 2)"),
    ],
)
def test_a_loss_that_differs_by_more_than_the_bound_ends_in_status_1(
    world, tmp_path, monkeypatch, capsys, sides, theirs, status, words
):
    made = sides([5.0, 4.0, 3.0], theirs)
    monkeypatch.setattr(race, "contestants", lambda settings, python: made)
    options = ["--model", world / "model", "--data-dir", world / "data", "--output-dir", tmp_path / "align"]
    monkeypatch.setattr(sys, "argv", ["align", *map(str, options), "--steps", "3"])
    monkeypatch.setattr(align.make, "write", lambda inputs, path: [Prompt(np.arange(3), 5)])
    assert align.main() == status
    assert words in capsys.readouterr().out and words in (tmp_path / "align" / "align.md").read_text()
    figures = json.loads((tmp_path / "align" / "align.json").read_text())
    assert figures["held"] == (status == 0) and (figures["largest"] is None) == (not math.isfinite(sum(theirs)))
    repeated = ["align", "--config", str(tmp_path / "align" / "arguments.yaml")]
    monkeypatch.setattr(sys, "argv", repeated)
    assert align.parse()[0].max_steps == 3


def test_logs_hold_what_each_side_said(tmp_path, sides):
    logs = race.run(sides([5.0, 4.0, 3.0], [5.5, 4.5, 3.5]), 3, tmp_path, dropout=True)
    log = logs[race.THEIRS]
    assert log.column("loss") == [5.5, 4.5, 3.5] and log.column("tokens") == [6, 12, 10]
    assert log.validation == {0: 3.0, 2: 3.0, 3: 3.0} and log.replies == [[7, 8]] and log.peak_mb > 1
    records = [json.loads(line) for line in (tmp_path / "torch-dropout.jsonl").read_text().splitlines()]
    assert [(record["step"], record["split"]) for record in records] == [
        *[(0, "validation"), (1, "train"), (2, "train"), (2, "validation"), (3, "train"), (3, "validation")]
    ]
    assert read_run(tmp_path / "torch-dropout.jsonl").training.losses.tolist() == [5.5, 4.5, 3.5]


def test_a_side_that_fails_is_named_with_its_reason_and_the_other_is_ended(tmp_path, sides):
    with pytest.raises(race.UserError, match=r"^transformers \+ PEFT failed at step 2: out of memory$"):
        race.run(sides([5.0] * 3, [5.0] * 3, fails=2), 3, tmp_path, dropout=False)
    assert len((tmp_path / "ours.jsonl").read_text().splitlines()) == 4  # what was made until then is there


def test_what_is_written_for_both_sides_is_read_back(tmp_path):
    classes = Rows(
        np.array([[1, 2], [3, 0]], np.int32), np.array([1, 0], np.int32), np.array([[1, 1], [1, 0]], np.int32)
    )
    write_data(tmp_path / "data.npz", [[rows(3), rows(4)], [classes]], [rows(2)], [Prompt(np.arange(5), 9)])
    data = Data(tmp_path / "data.npz")
    for found, expected in zip([*data.update(1), *data.update(2)], [rows(3), rows(4), classes], strict=True):
        assert all(np.array_equal(*pair) for pair in zip(found, expected, strict=True))
    assert [(batch.tokens, batch.scored) for batch in data.update(1) + data.update(2)] == [(6, 4), (8, 6), (3, 2)]
    (prompt,) = data.prompts
    assert prompt.input_ids.tolist() == [0, 1, 2, 3, 4] and prompt.max_new_tokens == 9 and len(data.validation) == 1


def test_what_both_sides_are_asked_is_asked_once():
    """Of E2E's meanings each has several texts, which follow one another."""
    read = inputs.read(resolve({"task": "e2e", "data_dir": "sample", "max_steps": 1}, {}, None))
    asked = [read.source.tokenizer.decode(prompt.input_ids) for prompt in inputs.prompts(read)]
    assert len(set(asked)) == len(asked) == inputs.PROMPTS


def test_seconds_and_speeds_leave_the_first_update_out():
    log = race.Log()
    for step, (seconds, tokens) in enumerate([(90.0, 10), (1.0, 10), (3.0, 20), (2.0, 30)], start=1):
        log.take({"loss": 1.0, "update_seconds": seconds, "tokens": tokens}, step)
    assert log.seconds == 2.0 and log.tokens_per_second() == 10.0 and log.tokens_per_second(2) == 10.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--steps", "0"], ["--steps", "at least 1"]),
        (["--torch-python", "no-such-python"], ["--torch-python no-such-python", "no such program"]),
        (["--tuning", "full"], ["--tuning"]),
        (["--config", "recipes/s0-chatbot.yaml"], ["--head-dropout", "leave it out"]),
        (["--config", "recipes/s2-dialogpt-imdb.yaml", "--base", "fp32", "--model", "nowhere"], ["nowhere"]),
        (["--lora-init", "olora"], ["--lora-init olora"]),
        (["--data-dir", "nowhere", "--model", "nano"], ["nowhere"]),
        (["--precision", "fp16", "--device", "cpu"], ["--precision", "CUDA"]),
        (["--base", "int8"], ["--base"]),
    ],
)
def test_a_mistake_is_one_line(options, words):
    assert_one_line_error(command("-m", "tools.align", "--data-dir", "sample", *options), *words)


def test_a_python_without_pytorch_is_said_to_be_one(world, tmp_path):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    python.chmod(0o755)
    side = race.contestants({"data": "", "repeat": 1}, str(python))[1]
    with pytest.raises(race.UserError, match="has not all of PyTorch, .*'numpy'.*: `make align` installs them"):
        race.run([side], 1, tmp_path, dropout=False)


def test_what_is_not_an_alignments_is_left_alone(tmp_path):
    mine = ("chats.jsonl", "align.txt", "start.txt")
    for name in (*mine, "align.md", "ours.jsonl", "torch-dropout.jsonl"):
        (tmp_path / name).touch()
    align.clear(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*mine}
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "notes.txt").touch()
    with pytest.raises(race.UserError, match="start is no adapter that an alignment began with"):
        align.clear(tmp_path)
    assert (tmp_path / "start" / "notes.txt").exists()


@pytest.mark.long
def test_loras_of_embeddings_learn_at_the_same_rate(world, tmp_path):
    options = ["--model", world / "model", "--data-dir", world / "data", "--output-dir", tmp_path / "align"]
    options += ["--steps", 6, "--learning-rate", "3e-2", "--lora-targets", "c_attn", "wte", "wpe"]
    result = command("-m", "tools.align", *options)
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_folder_is_used_again_but_not_a_trainings(tmp_path):
    (tmp_path / "start").mkdir()
    for name in ("align.md", "ours.jsonl", "start/adapter_config.json"):
        (tmp_path / name).touch()
    align.clear(tmp_path)
    assert not any(tmp_path.iterdir())
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(race.UserError, match="holds a run of train.py's: choose another --output-dir"):
        align.clear(tmp_path)


def test_a_relative_difference_of_nothing_is_none():
    sides = []
    for rate in (0.0, 0.5):
        log = race.Log()
        log.take({"learning_rate": 0.0}, 1)
        log.take({"learning_rate": 2.0 + rate}, 2)
        sides.append(log)
    assert report._relative(report.Phase(*sides), "learning_rate") == pytest.approx(0.2)
