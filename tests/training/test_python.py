"""Training from Python, on sets that no task has made: the lines of docs/usage.md, and what is refused."""

import json

import numpy as np
import pytest
import safetensors.numpy
import tiny
from places import ROOT

import lora
from common.errors import UserError
from datasets.encode import IGNORED, Encoded, EncodedSet, packed
from datasets.example import Example, Segment
from generation.scoring import evaluate
from gpt2_jittor import GPT2LMHeadModel
from gpt2_jittor.checkpoint.tokenizer import load_tokenizer
from training import Trainer, TrainingArguments

USAGE = ROOT / "docs" / "usage.md"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.model_folder(tmp_path_factory.mktemp("base"), seed=1, dropout=0.1)


def own_set(base, count: int, seed: int) -> EncodedSet:
    random = np.random.default_rng(seed)
    texts = [" ".join(random.choice(tiny.WORDS, 12)) for _ in range(count)]
    return packed([Example((Segment(text, scored=True),)) for text in texts], load_tokenizer(base), 30)


def trainer_of(base, run_dir, resume=False, lora_settings=None, train_seed=2, **settings) -> Trainer:
    model = GPT2LMHeadModel.from_pretrained(base)
    lora.inject(model, lora.LoraConfig(**({"r": 2, "lora_dropout": 0.1} | (lora_settings or {}))))
    settings = {"output_dir": str(run_dir), "batch_size": 4, "learning_rate": 1e-2, "max_steps": 6} | settings
    sets = own_set(base, 20, train_seed), own_set(base, 6, 3)
    return Trainer(model, *sets, TrainingArguments(**settings), load_tokenizer(base), resume=resume)


def lines_of(run_dir) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_the_lines_of_the_documentation_train_an_adapter_on_texts_of_ones_own(base, tmp_path):
    _, _, section = USAGE.read_text(encoding="utf-8").partition("### Your own data, in Python\n```python\n")
    lines, _, _ = section.partition("```\n")
    replaced = {
        '"gpt2"': repr(str(base)),
        '"runs/mine"': repr(str(tmp_path / "mine")),
        "512": "30",
        "max_steps=100": "max_steps=40, learning_rate=1e-2",
    }
    for old, new in replaced.items():
        assert old in lines
        lines = lines.replace(old, new)
    names = {}
    exec(lines, names)  # as whoever copies them does
    progress = names["progress"]
    assert progress.step == 40 and progress.best_loss < progress.first_loss - 0.1
    files = {path.name for path in (tmp_path / "mine").iterdir() if not path.name.startswith("checkpoint-")}
    assert files == {"adapter_config.json", "adapter_model.safetensors", "metrics.jsonl"}
    model = GPT2LMHeadModel.from_pretrained(base)
    lora.load_adapter(model, tmp_path / "mine")
    score = evaluate(model, names["validation"], 8, names["tokenizer"].pad_token_id)
    assert score.loss == pytest.approx(progress.best_loss, rel=1e-5)


def test_what_is_left_open_is_settled_by_the_sets(base, tmp_path):
    given = trainer_of(base, tmp_path, max_steps=None, learning_rate=None).arguments
    items = len(own_set(base, 20, 2))
    steps = 3 * -(-items // 4)
    assert (given.epochs, given.learning_rate, given.warmup_steps) == (3, 5e-4, round(0.03 * steps))
    assert given.eval_every == given.save_every and 1 <= given.eval_every <= steps
    full = GPT2LMHeadModel.from_pretrained(base)
    sets = own_set(base, 20, 2), own_set(base, 6, 3)
    given = Trainer(full, *sets, TrainingArguments(output_dir=str(tmp_path)), load_tokenizer(base)).arguments
    assert (given.tuning, given.learning_rate) == ("full", 5e-5)  # it is the model that says so


def test_a_run_that_is_resumed_and_made_longer_ends_as_the_long_one(base, tmp_path):
    settings = {"warmup_steps": 1, "schedule": "constant"}
    trainer_of(base, tmp_path / "whole", max_steps=9, eval_every=2, eval_limit=6, **settings).run()
    trainer_of(base, tmp_path / "cut", max_steps=5, eval_every=2, eval_limit=6, **settings).run()
    again = trainer_of(base, tmp_path / "cut", resume=True, max_steps=9, **settings)
    assert (again.progress.step, again.arguments.eval_every) == (5, 2)  # what was settled then stays
    assert again.run().step == 9
    for file in ("adapter_model.safetensors", "optimizer.safetensors"):
        found, expected = (tmp_path / name / "checkpoint-9" / file for name in ("cut", "whole"))
        assert found.read_bytes() == expected.read_bytes(), file
    found, expected = (
        [(line["step"], line["loss"]) for line in lines_of(tmp_path / name) if line["split"] == "train"]
        for name in ("cut", "whole")
    )
    assert found == expected


def test_every_weight_is_trained_where_nothing_was_injected(base, tmp_path):
    model, sets = GPT2LMHeadModel.from_pretrained(base), (own_set(base, 20, 2), own_set(base, 6, 3))
    arguments = TrainingArguments(output_dir=str(tmp_path), max_steps=2, batch_size=4, learning_rate=1e-3)
    Trainer(model, *sets, arguments, load_tokenizer(base)).run()
    before, after = (safetensors.numpy.load_file(folder / "model.safetensors") for folder in (base, tmp_path))
    assert all((after[name] != before[name]).any() for name in before)
    assert (tmp_path / "tokenizer.json").is_file()


def test_a_run_is_taken_up_only_by_the_one_that_wrote_it(base, tmp_path):
    trainer_of(base, tmp_path).run()
    with pytest.raises(UserError, match="holds a run already: resume it, or choose another output_dir"):
        trainer_of(base, tmp_path)
    with pytest.raises(UserError, match="the data are others"):
        trainer_of(base, tmp_path, resume=True, train_seed=5)
    with pytest.raises(UserError, match="lora_dropout was 0.1 and is 0.2 now"):
        trainer_of(base, tmp_path, resume=True, lora_settings={"lora_dropout": 0.2})


def test_what_nothing_can_be_learnt_from_is_refused(base, tmp_path):
    sets, tokenizer = (own_set(base, 20, 2), own_set(base, 6, 3)), load_tokenizer(base)
    model, given = GPT2LMHeadModel.from_pretrained(base), TrainingArguments(output_dir=str(tmp_path))
    ids = np.arange(5, dtype=np.int32)
    silent = EncodedSet([Encoded(ids, np.full_like(ids, IGNORED))])
    with pytest.raises(UserError, match="nothing in the train data is scored"):
        Trainer(model, silent, sets[1], given, tokenizer)
    with pytest.raises(UserError, match="output_dir is missing"):
        Trainer(model, *sets, TrainingArguments(), tokenizer)
    with pytest.raises(UserError, match="nothing of the model is trained: inject LoRA"):
        Trainer(model.freeze(), *sets, given, tokenizer)
    assert not any(tmp_path.iterdir())


def test_an_error_names_items_by_their_number_where_nobody_says_where_they_stand(base, tmp_path):
    trainer = trainer_of(base, tmp_path, eval_every=1)
    weight, validate = trainer.model.transformer.h[1].mlp.c_fc.weight, trainer._validate

    def spoiling():
        validate()
        weight.assign(np.full(weight.shape, np.nan, np.float32))

    trainer._validate = spoiling
    with pytest.raises(
        UserError, match=r"loss nan at step 1 \(epoch 1 batch 1: window \d+, window \d+, window \d+ and"
    ):
        trainer.run()


def test_how_losses_are_made_is_what_the_arguments_say(base, tmp_path):
    settings = {"label_smoothing": 0.3, "gradient_checkpointing": True, "head_dropout": 0.2}
    plain, given = trainer_of(base, tmp_path / "plain"), trainer_of(base, tmp_path / "given", **settings)
    model = given.model
    assert (model.label_smoothing, model.transformer.gradient_checkpointing, model.head_dropout) == (0.3, True, 0.2)
    assert {name: getattr(given.arguments, name) for name in settings} == settings
    assert not plain.model.label_smoothing and not plain.model.transformer.gradient_checkpointing
    plain.run()
    given.run()
    assert lines_of(tmp_path / "given")[1]["loss"] != lines_of(tmp_path / "plain")[1]["loss"]
