"""The recipes: each is its origin's hyperparameters, and each runs."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.numpy
import yaml
from places import ROOT

from common.errors import UserError
from datasets.tasks import TASKS
from training.arguments import read_recipe, resolve

QUICK = ("s0-chatbot", "s4-emotion", "paper-e2e")  # the others train in the long tests
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))

# the origins' table in words: model, task, targets, r, alpha, dropout, rate
ORIGINS = {
    "paper-e2e": ("gpt2", "e2e", ["q", "v"], 4, 32, 0.1, 2e-4),
    "s0-chatbot": ("gpt2", "dailydialog", ["c_attn"], 8, 32, 0.1, 5e-4),
    "s1-chatbot-xl": ("gpt2-xl", "dailydialog", ["c_attn", "c_proj"], 8, 32, 0.05, 3e-4),
    "s2-dialogpt-imdb": ("microsoft/DialoGPT-medium", "imdb", ["c_attn", "c_proj"], 16, 32, 0.05, 2e-4),
    "s3-squad": ("gpt2", "squad", ["c_attn", "c_proj", "c_fc"], 8, 16, 0.1, 5e-4),
    "s4-emotion": ("gpt2", "emotion", ["c_attn", "attn.c_proj"], 8, 16, 0.05, 5e-5),
    "s4-entailment": ("gpt2", "rte", ["c_attn", "attn.c_proj"], 8, 16, 0.05, 5e-5),
    "s4-instruction": ("gpt2", "dolly", ["c_attn", "attn.c_proj"], 8, 16, 0.05, 5e-5),
}


def test_there_is_a_recipe_for_each_origin():
    assert [path.stem for path in RECIPES] == list(ORIGINS)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_repeats_its_origins_hyperparameters(path):
    given = resolve({}, read_recipe(path))
    names = ("model", "task", "lora_targets", "lora_r", "lora_alpha", "lora_dropout", "learning_rate")
    assert tuple(getattr(given, name) for name in names) == ORIGINS[path.stem]


def test_what_is_peculiar_to_an_origin_stands_in_its_recipe():
    given = {path.stem: resolve({}, read_recipe(path)) for path in RECIPES}
    s0, s1, s2 = (given[name] for name in ("s0-chatbot", "s1-chatbot-xl", "s2-dialogpt-imdb"))
    assert (s0.lora_modules_to_save, s0.head_dropout, s0.gradient_accumulation) == (["lm_head"], 0.1, 4)
    assert (s1.added_tokens, s1.epochs, s1.batch_size) == (["<USER>", "<BOT>", "<END>"], 3, 8)
    assert (s1.base, s1.int8_threshold, s1.gradient_checkpointing) == ("int8", 6.0, True)
    paper = given["paper-e2e"]
    assert (paper.label_smoothing, paper.weight_decay, paper.max_grad_norm) == (0.1, 0.01, 0)
    assert (paper.epochs, paper.batch_size, paper.schedule, paper.warmup_steps) == (5, 8, "linear", 500)
    assert (s2.max_steps, s2.warmup_steps, s2.batch_size, s2.gradient_accumulation) == (1000, 100, 4, 4)
    assert (s2.base, s2.int8_threshold) == ("bf16", None)


def test_the_papers_recipe_says_how_its_texts_are_generated(monkeypatch):
    import evaluate

    (line,) = re.findall(r"#   python (evaluate.py .*)", (ROOT / "recipes" / "paper-e2e.yaml").read_text("utf-8"))
    monkeypatch.setattr("sys.argv", line.split())
    _, given = evaluate.parse()
    assert (given.num_beams, given.length_penalty, given.no_repeat_ngram_size) == (10, 0.8, 4)
    options = evaluate.answer_options(given, TASKS["e2e"], SimpleNamespace(ends=lambda: (256,)))
    assert (options.num_beams, options.length_penalty, options.no_repeat_ngram_size) == (10, 0.8, 4)
    assert options.max_new_tokens == 64 and TASKS["e2e"].kind.repeats_prompt


@pytest.mark.parametrize(
    ("typed", "meant"), [("learning_rte", "learning_rate"), ("lora_rank", "lora_r"), ("batchsize", "batch_size")]
)
def test_a_misspelt_key_is_told_with_the_right_one(tmp_path, typed, meant):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"task: squad\n{typed}: 1\n", encoding="utf-8")
    with pytest.raises(UserError, match=f"mine.yaml: there is no setting '{typed}'; did you mean {meant}\\?"):
        read_recipe(recipe)


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=path.stem, marks=() if path.stem in QUICK else pytest.mark.long) for path in RECIPES],
)
def test_a_recipe_trains_nano_on_the_embedded_sample(path, tmp_path):
    from lora.attach import adapter_names
    from training.setup import build_trainer, read_inputs

    typed = {"model": "nano", "data_dir": "sample", "output_dir": str(tmp_path), "max_steps": 2, "eval_limit": 4}
    typed |= {"max_length": 128, "batch_size": 4, "gradient_accumulation": 1, "warmup_steps": 0}
    inputs = read_inputs(resolve(typed, read_recipe(path)), say=lambda _: None)
    trainer = build_trainer(inputs)
    model = trainer.model
    before = {name: model.parameter(name).numpy() for name in adapter_names(model)}
    progress = trainer.run()
    assert (progress.step, progress.validated) == (2, 2)
    changed = [name for name, old in before.items() if not np.array_equal(old, model.parameter(name).numpy())]
    assert {name for name in before if "lora_A" not in name} <= set(changed), "every factor, head and row is trained"
    stored = safetensors.numpy.load_file(tmp_path / "adapter_model.safetensors")
    assert len(stored) >= len(before) and all(np.isfinite(value).all() for value in stored.values())


def test_every_task_has_a_sample_with_three_splits():
    for name, task in TASKS.items():
        if name != "text":
            assert all(len(task.load(split, task.sample)) for split in ("train", "validation", "test")), name


def test_recipes_hold_known_settings_only_and_no_paths():
    for path in RECIPES:
        assert "data_dir" not in yaml.safe_load(path.read_text(encoding="utf-8"))
