"""Whole runs of the trainer on tiny models and dialogues, beside PEFT and torch where they compute the same."""

import math
import shutil
import signal
import sys

import numpy as np
import peft
import pytest
import safetensors.numpy
import tiny
import torch
import transformers
from peft.optimizers import create_loraplus_optimizer
from runs import arguments, build_world, metrics, names, prepare, run

import lora
import train
from common.errors import UserError
from datasets.batches import collate, plan_batches
from generation.scoring import evaluate
from gpt2_jittor import GPT2LMHeadModel
from training import trainer as trainer_module
from training.arguments import read_recipe, resolve
from training.setup import read_inputs

ADAPTER = {"adapter_config.json", "adapter_model.safetensors"}
CHECKPOINT = {"optimizer.safetensors", "progress.json", "identity.json", "manifest.json"}
RECORD = {"step", "epoch", "split", "loss", "perplexity", "tokens", "seconds"}
STEP = RECORD | {"learning_rate", "grad_norm", "tokens_per_second"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Folders of a model without dropout, one with dropout, and the data: 21 and 7 dialogues."""
    root = tmp_path_factory.mktemp("world")
    tiny.model_folder(root / "still", seed=1)
    return build_world(root)


def torch_run(trainer, folder, adapter):
    """The same run in torch: yields each step's loss and gradient norm, and at last the model."""
    given, plan = trainer.arguments, trainer.plan
    model = peft.PeftModel.from_pretrained(
        transformers.GPT2LMHeadModel.from_pretrained(folder), adapter, is_trainable=True
    ).train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = create_loraplus_optimizer(
        model,
        torch.optim.AdamW,
        lr=given.learning_rate,
        loraplus_lr_ratio=given.lora_plus_ratio,
        loraplus_weight_decay=given.weight_decay,
    )
    scheduler = transformers.get_linear_schedule_with_warmup(optimizer, given.warmup_steps, given.max_steps)
    batches = (
        collate([plan.train[index] for index in indexes], pad_id=0)
        for epoch in range(given.max_steps)
        for indexes in plan_batches(plan.train.lengths, given.batch_size, given.seed, epoch)
    )
    for _ in range(given.max_steps):
        batch = next(batches)
        ids, labels, mask = (torch.tensor(a).long() for a in (batch.input_ids, batch.labels, batch.attention_mask))
        logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].flatten(0, 1)
        smoothing = given.label_smoothing
        loss = torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), label_smoothing=smoothing)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, given.max_grad_norm)
        optimizer.step()
        scheduler.step()
        yield loss.item(), norm.item()
    yield peft.get_peft_model_state_dict(model)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"lora_plus_ratio": 4.0, "lora_bias": "lora_only", "learning_rate": 2e-3},
        {"lora_dora": True},
        {"label_smoothing": 0.1},
    ],
    ids=["lora", "lora+", "dora", "label smoothing"],
)
def test_50_steps_are_those_of_peft_and_torch(world, tmp_path, more):
    settings = {"lora_dropout": 0.0, "max_steps": 50, "eval_every": 50, "weight_decay": 0.1, "max_grad_norm": 2.0}
    trainer = prepare(arguments(world, tmp_path / "run", "still", **settings, **more))
    lora.save_adapter(trainer.model, tmp_path / "start")
    trainer.run()
    *expected, adapter = torch_run(trainer, world / "still", tmp_path / "start")
    found_losses, found_norms = (
        [record[name] for record in metrics(tmp_path / "run")] for name in ("loss", "grad_norm")
    )
    losses, norms = zip(*expected, strict=True)
    assert len(found_losses) == 50 and min(norms) < 2 < max(norms)  # some gradients are clipped
    np.testing.assert_allclose(found_losses, losses, rtol=0, atol=1e-3)  # the contract
    np.testing.assert_allclose(found_norms, norms, rtol=1e-3)  # the contract for gradients
    found = safetensors.numpy.load_file(tmp_path / "run" / "checkpoint-50" / "adapter_model.safetensors")
    assert found.keys() == adapter.keys()
    for name, value in found.items():
        # a hundredth of a step: Adam divides by the gradient's size, and so enlarges roundings where that is tiny
        atol, others = 1e-4 * trainer.arguments.lora_plus_ratio, adapter[name].numpy()
        if name.endswith("c_attn.base_layer.bias"):  # of the keys': softmax takes no notice of it, Adam of roundings
            third = len(value) // 3
            value, others = (np.delete(array, np.s_[third : 2 * third]) for array in (value, others))
        np.testing.assert_allclose(value, others, rtol=0, atol=atol, err_msg=name)


def test_uneven_micro_batches_add_up_to_one_large_batch(world, tmp_path):
    tiny.dialogue_folder(tmp_path / "data", seed=3, train=4)
    found = []
    for batch_size, accumulation in ((4, 1), (2, 2), (1, 4)):
        settings = {"batch_size": batch_size, "gradient_accumulation": accumulation, "data_dir": str(tmp_path / "data")}
        run_dir = tmp_path / str(batch_size)
        trainer = prepare(
            arguments(world, run_dir, "still", lora_dropout=0.0, max_grad_norm=0.0, max_steps=1, **settings)
        )
        trainer.run()
        assert len({len(item.labels) for item in trainer.plan.train.items}) > 1
        found.append((metrics(run_dir)[0], trainer.optimizer.state()))
    (record, state), *others = found
    for other_record, other_state in others:
        assert other_record["tokens"] == record["tokens"]
        for name in ("loss", "grad_norm"):
            assert other_record[name] == pytest.approx(record[name], rel=1e-5)  # float32 sums in another order
        for name, moment in state.items():  # after one step, first moments are a tenth of the gradients
            assert np.linalg.norm(other_state[name] - moment) <= 1e-5 * np.linalg.norm(moment), name


def test_a_run_leaves_exactly_the_files_of_the_contract(world, tmp_path, monkeypatch, capsys):
    run_dir = tmp_path / "run"
    options = ["--model", world / "still", "--data-dir", world / "data", "--output-dir", run_dir, "--max-steps", "12"]
    options += ["--eval-every", "3", "--batch-size", "4", "--learning-rate", "1e-2", "--lora-r", "3"]
    monkeypatch.setattr(sys, "argv", ["train.py", *map(str, options)])
    train.main()
    own = {"README.md", "arguments.yaml", "metrics.jsonl", "loss.png", "checkpoint-9", "checkpoint-12"}
    assert names(run_dir) == ADAPTER | own
    assert names(run_dir / "checkpoint-12") == ADAPTER | CHECKPOINT
    assert all(record.keys() == STEP for record in metrics(run_dir))
    validations = metrics(run_dir, "validation")
    assert all(record.keys() == RECORD | {"examples"} for record in validations)
    assert [record["step"] for record in validations] == [0, 3, 6, 9, 12]
    assert validations[-1]["loss"] < validations[0]["loss"] - 0.1
    losses = [record["loss"] for record in metrics(run_dir)]
    assert np.mean(losses[-4:]) < np.mean(losses[:4]) - 0.1
    again = read_inputs(resolve({}, read_recipe(run_dir / "arguments.yaml")), say=lambda text: None)
    assert again.arguments == resolve({}, read_recipe(run_dir / "arguments.yaml"))  # nothing was left to settle
    assert again.arguments.max_steps == 12 and again.plan.total_steps == 12
    assert f"--adapter {run_dir}" in capsys.readouterr().out


def test_the_kept_adapter_is_the_best_one(world, tmp_path, monkeypatch):
    # a good rate, and then one with which every weight of the adapter jumps far away
    monkeypatch.setattr(trainer_module, "learning_rate", lambda *given: 0.01 if given[2] < 5 else 5.0)
    trainer = run(arguments(world, tmp_path, max_steps=8, eval_every=1))
    validations = metrics(tmp_path, "validation")[1:]
    best = min(validations, key=lambda record: record["loss"])
    assert best["step"] == trainer.progress.best_step <= 5
    model = GPT2LMHeadModel.from_pretrained(world / "dropping")
    lora.load_adapter(model, tmp_path)
    assert evaluate(model, trainer.plan.validation, 4, pad_id=256).loss == pytest.approx(best["loss"], rel=1e-6)


def interrupt_before_update(monkeypatch, step):
    original = trainer_module.learning_rate

    def learning_rate(*given):
        if given[2] == step:
            signal.raise_signal(signal.SIGINT)
        return original(*given)

    monkeypatch.setattr(trainer_module, "learning_rate", learning_rate)


def interrupt_after_update(monkeypatch, step):
    """Jittor computes a whole step in one call of its core: Ctrl-C comes when that returns, most of the time."""
    original = trainer_module.AdamW.step

    def update(self, *given):
        original(self, *given)
        if self.steps == step + 1:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(trainer_module.AdamW, "step", update)


TUNINGS = {
    "lora": {},
    "queries and values": {"lora_targets": ["q", "v", "c_fc"]},
    "a base that gives up what the adapter begins with": {"lora_init": "pissa", "lora_dora": True},
    "full": {"tuning": "full"},
}


@pytest.mark.parametrize("interrupt", [interrupt_before_update, interrupt_after_update])
@pytest.mark.parametrize("tuning", [*list(TUNINGS)[:3], pytest.param("full", marks=pytest.mark.long)])
def test_an_interrupted_run_resumes_to_the_same_end(world, tmp_path, monkeypatch, tuning, interrupt):
    if interrupt is interrupt_before_update and tuning not in ("lora", "full"):
        pytest.skip("what an adapter is made of does not depend on when Ctrl-C comes")
    # dropout, accumulation over an epoch's end, a schedule: everything that a step's number decides
    settings = TUNINGS[tuning] | {"max_steps": 8, "eval_every": 2, "gradient_accumulation": 2}
    run(arguments(world, tmp_path / "whole", **settings))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, step=5)
        run(arguments(world, tmp_path / "cut", **settings))
    run(arguments(world, tmp_path / "cut", **settings), resume=True)
    for file in ("optimizer", "model" if tuning == "full" else "adapter_model"):
        path = f"checkpoint-8/{file}.safetensors"
        found, expected = (safetensors.numpy.load_file(tmp_path / part / path) for part in ("cut", "whole"))
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value, err_msg=name)
    timing = {"seconds", "tokens_per_second"}
    for split in ("train", "validation"):
        found, expected = (
            [{k: v for k, v in record.items() if k not in timing} for record in metrics(tmp_path / part, split)]
            for part in ("cut", "whole")
        )
        assert found == expected


def test_resuming_from_an_earlier_checkpoint_forgets_the_lines_after_it(world, tmp_path):
    given = arguments(world, tmp_path, max_steps=6, eval_every=3)
    run(given)
    before = metrics(tmp_path)
    shutil.rmtree(tmp_path / "checkpoint-6")
    run(given, resume=True)
    assert [(r["step"], r["loss"]) for r in metrics(tmp_path)] == [(r["step"], r["loss"]) for r in before]


def spoil(model, value) -> None:
    weight = model.transformer.h[1].mlp.c_fc.weight
    weight.assign(np.full(weight.shape, value, np.float32))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run_with_one_line(world, tmp_path, monkeypatch, value):
    trainer = prepare(arguments(world, tmp_path, max_steps=4, eval_every=1))
    original = trainer_module.learning_rate

    def spoiling(*given):
        if given[2] == 2:
            spoil(trainer.model, value)
        return original(*given)

    monkeypatch.setattr(trainer_module, "learning_rate", spoiling)
    with pytest.raises(UserError, match="loss nan at step 3 .*checkpoint-2; try a lower learning_rate") as caught:
        trainer.run()
    assert "\n" not in str(caught.value)
    assert "(epoch 1 batch 3: " in str(caught.value) and "dialogues_train.txt:" in str(caught.value)
    assert [record["step"] for record in metrics(tmp_path)] == [1, 2]


def test_a_base_model_with_a_loss_that_is_not_finite_is_refused_as_such(world, tmp_path):
    trainer = prepare(arguments(world, tmp_path, max_steps=3))
    spoil(trainer.model, math.nan)
    with pytest.raises(UserError, match="before the first step: the base model's weights are damaged"):
        trainer.run()


def test_a_validation_that_is_not_finite_is_never_kept_as_the_best(world, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer_module, "replied", lambda *given: "")  # as in tasks that are no chat
    with pytest.raises(UserError, match="diverged"):
        run(arguments(world, tmp_path, max_steps=3, eval_every=1, warmup_steps=0, learning_rate=1e30))
    assert not ADAPTER & names(tmp_path)


def test_a_long_opening_in_the_validation_data_does_not_end_the_run(world, tmp_path):
    tiny.dialogue_folder(tmp_path / "data", seed=4)
    path = tmp_path / "data" / "validation" / "dialogues_validation.txt"
    path.write_text("a long opening " * 7 + "__eou__ yes . __eou__\n" + path.read_text())
    given = arguments(world, tmp_path / "run", max_steps=1, data_dir=str(tmp_path / "data"))
    assert run(given).progress.step == 1


def test_full_tuning_leaves_a_model_for_us_and_for_transformers(world, tmp_path):
    trainer = run(arguments(world, tmp_path, tuning="full", max_steps=3, eval_every=3, learning_rate=1e-3))
    model_files = {"config.json", "generation_config.json", "model.safetensors"}
    tokenizer_files = {"tokenizer.json", "tokenizer_config.json"}
    assert names(tmp_path) == model_files | tokenizer_files | {"metrics.jsonl", "checkpoint-3"}
    assert names(tmp_path / "checkpoint-3") == model_files | CHECKPOINT
    ids = tiny.random_ids(seed=5)
    expected = trainer.model.eval()(ids).numpy()
    ours = GPT2LMHeadModel.from_pretrained(tmp_path)(ids).numpy()
    np.testing.assert_array_equal(ours, expected)
    with torch.no_grad():
        theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path).eval()(torch.tensor(ids)).logits.numpy()
    np.testing.assert_allclose(theirs, expected, rtol=0, atol=1e-4)  # the contract's tolerance for logits
    before = GPT2LMHeadModel.from_pretrained(world / "dropping")
    for (name, value), (_, old) in zip(trainer.model.named_parameters(), before.named_parameters(), strict=True):
        assert (value.numpy() != old.numpy()).any(), name
