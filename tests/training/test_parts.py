"""The parts of training against torch and transformers: optimizer, clipping, schedule, evaluation, arguments."""

import dataclasses

import numpy as np
import pytest
import tiny
import torch
import transformers

from common.errors import UserError
from common.options import option_name
from datasets.encode import Encoded, EncodedSet
from generation.scoring import evaluate
from gpt2_jittor import GPT2LMHeadModel
from gpt2_jittor.runtime.backend import jt
from training.arguments import TrainingArguments, read_recipe, resolve
from training.optimizer import AdamW, clip_factor, global_norm
from training.schedule import learning_rate

SHAPES = {"matrix": (5, 7), "table": (11, 3), "vector": (7,)}
FLOAT32 = 1e-5  # relative: single precision through a few hundred operations
PAD = 256


def random_arrays(random, scale=1.0) -> list[np.ndarray]:
    return [(scale * random.standard_normal(shape)).astype(np.float32) for shape in SHAPES.values()]


def test_adamw_is_torchs_with_decay_on_matrices_alone_over_20_steps(way):
    random = np.random.default_rng(1)
    values = random_arrays(random)
    ours = [jt.array(value) for value in values]
    theirs = [torch.nn.Parameter(torch.tensor(value)) for value in values]
    optimizer = AdamW(zip(SHAPES, ours, strict=True), weight_decay=0.3)
    groups = [{"params": theirs[:2], "weight_decay": 0.3}, {"params": theirs[2:], "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8)
    for step in range(20):
        rate = 0.01 * (step + 1)
        gradients = random_arrays(random, scale=10.0 ** -(step % 4))
        optimizer.step([jt.array(gradient) for gradient in gradients], rate)
        for group in reference.param_groups:
            group["lr"] = rate
        for parameter, gradient in zip(theirs, gradients, strict=True):
            parameter.grad = torch.tensor(gradient)
        reference.step()
        for name, found, expected in zip(SHAPES, ours, theirs, strict=True):
            np.testing.assert_allclose(found.numpy(), expected.detach(), rtol=FLOAT32, atol=FLOAT32, err_msg=name)


def test_an_optimizer_goes_on_from_its_saved_state():
    random = np.random.default_rng(2)
    values, gradients = random_arrays(random), [random_arrays(random) for _ in range(4)]
    whole, first_part = [jt.array(v) for v in values], [jt.array(v) for v in values]
    optimizers = [AdamW(zip(SHAPES, parameters, strict=True), 0.1) for parameters in (whole, first_part)]
    for step, arrays in enumerate(gradients):
        for optimizer in optimizers:
            optimizer.step([jt.array(array) for array in arrays], 0.01)
        if step == 1:
            resumed = AdamW(zip(SHAPES, first_part, strict=True), 0.1)
            resumed.load_state(optimizers[1].state(), 2)
            optimizers[1] = resumed
    for found, expected in zip(first_part, whole, strict=True):
        np.testing.assert_array_equal(found.numpy(), expected.numpy())


def test_many_and_large_tensors_are_updated_alike(way, rng):
    """More tensors than one operator takes, one of them larger than a piece of its work."""
    sizes = [(200, 401), *((1 + i % 3, 1 + i) for i in range(40))]
    values, gradients = ([rng.standard_normal(size).astype(np.float32) for size in sizes] for _ in range(2))
    ours = [jt.array(value) for value in values]
    theirs = [torch.nn.Parameter(torch.tensor(value)) for value in values]
    for parameter, gradient in zip(theirs, gradients, strict=True):
        parameter.grad = torch.tensor(gradient)
    norm = global_norm([jt.array(gradient) for gradient in gradients])
    np.testing.assert_allclose(norm.numpy(), torch.nn.utils.clip_grad_norm_(theirs, 1.0).numpy(), rtol=FLOAT32)
    torch.optim.AdamW(theirs, lr=0.1, weight_decay=0.01).step()
    AdamW([(str(i), value) for i, value in enumerate(ours)], 0.01).step(
        [jt.array(gradient) for gradient in gradients], 0.1, clip_factor(norm, 1.0)
    )
    for found, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(found.numpy(), expected.detach(), rtol=FLOAT32, atol=FLOAT32)


@pytest.mark.parametrize("max_norm", [0.5, 1.0, 1e6])
def test_gradients_are_clipped_as_torch_clips_them(way, max_norm):
    arrays = random_arrays(np.random.default_rng(3))
    parameters = [torch.nn.Parameter(torch.zeros(array.shape)) for array in arrays]
    for parameter, array in zip(parameters, arrays, strict=True):
        parameter.grad = torch.tensor(array)
    expected_norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    norm = global_norm([jt.array(array) for array in arrays])
    factor = clip_factor(norm, max_norm).numpy()
    np.testing.assert_allclose(norm.numpy(), expected_norm.numpy(), rtol=FLOAT32)
    for array, parameter in zip(arrays, parameters, strict=True):
        np.testing.assert_allclose(array * factor, parameter.grad, rtol=FLOAT32)


@pytest.mark.parametrize("warmup", [0, 1, 7, 23])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_each_steps_rate_is_transformers(schedule, warmup):
    total, peak = 23, 3e-4
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    make = getattr(transformers, f"get_{schedule}_schedule_with_warmup")
    totals = {} if schedule == "constant" else {"num_training_steps": total}
    reference = make(optimizer, num_warmup_steps=warmup, **totals)
    for step in range(total):
        expected = reference.get_last_lr()[0]
        # doubles: the same formula up to a few roundings
        assert learning_rate(schedule, peak, step, warmup, total) == pytest.approx(expected, rel=1e-12, abs=1e-18)
        optimizer.step()
        reference.step()


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A model with dropout, examples of uneven length and scored count, and torch's loss over all of them."""
    folder = tiny.model_folder(tmp_path_factory.mktemp("model"), seed=4, dropout=0.3)
    reference = transformers.GPT2LMHeadModel.from_pretrained(folder).eval()
    items, total, count = [], 0.0, 0
    for seed, length in enumerate([4, 31, 9, 17, 2, 23, 12]):
        ids, labels, _ = (array[0] for array in tiny.padded_batch(seed, lengths=[length]))
        labels[-1] = ids[-1]  # at least one is scored
        items.append(Encoded(ids.astype(np.int32), labels.astype(np.int32)))
        with torch.no_grad():
            logits = reference(torch.tensor(ids)[None]).logits[0]
        total += float(torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(labels[1:]), reduction="sum"))
        count += int((labels[1:] != -100).sum())
    return GPT2LMHeadModel.from_pretrained(folder), EncodedSet(items), total / count, count


@pytest.mark.parametrize("batch_size", [1, 3, 7])
@pytest.mark.parametrize("training", [False, True])
def test_evaluation_is_the_mean_over_scored_tokens_without_dropout(scored, batch_size, training):
    model, data, expected, count = scored
    model.train() if training else model.eval()
    score = evaluate(model, data, batch_size, PAD)
    assert score.loss == pytest.approx(expected, rel=FLOAT32)
    assert score.tokens == count
    assert score.perplexity == pytest.approx(np.exp(expected), rel=10 * FLOAT32)
    assert all(module.is_training() == training for module in model.modules())


@pytest.mark.parametrize(
    "given, words",
    [
        ({"epochs": 1.0, "max_steps": 5}, ["--epochs", "--max-steps"]),
        ({"lora_r": 0}, ["--lora-r", "at least 1"]),
        ({"batch_size": 0}, ["--batch-size", "at least 1"]),
        ({"gradient_accumulation": 0}, ["--gradient-accumulation"]),
        ({"learning_rate": 0.0}, ["--learning-rate", "positive"]),
        ({"learning_rate": float("nan")}, ["--learning-rate", "nan"]),
        ({"weight_decay": -0.1}, ["--weight-decay"]),
        ({"weight_decay": float("nan")}, ["--weight-decay"]),
        ({"lora_dropout": 1.0}, ["--lora-dropout", "below 1"]),
        ({"epochs": 0.0}, ["--epochs", "positive"]),
        ({"max_length": 1}, ["--max-length", "at least 2"]),
        ({"patience": 0}, ["--patience"]),
        ({"seed": -1}, ["--seed"]),
        ({"lora_r": 0, "batch_size": 0}, ["--lora-r", "--batch-size"]),
    ],
    ids=str,
)
def test_impossible_arguments_are_refused_in_the_words_that_were_typed(given, words):
    with pytest.raises(UserError) as caught:
        resolve(given)
    said = caught.value.with_names(option_name)
    assert [word for word in words if word not in said] == [], said
    assert "\n" not in said


@pytest.mark.parametrize(
    "text, words",
    [
        ("learning_rat: 1e-3", ["'learning_rat'", "did you mean learning_rate?"]),
        ("lora_r: eight", ["lora_r", "int", "'eight'"]),
        ("lora_r: 8.5", ["lora_r", "8.5"]),
        ("batch_size: true", ["batch_size", "True"]),
        ("schedule: exponential", ["schedule", "linear, cosine, constant"]),
        ("lora_targets: [3]", ["lora_targets", "[3]"]),
        ("seed: null", ["seed", "None"]),
        ("- task", ["name: value"]),
        ("", ["name: value"]),
        ("task: [", ["YAML"]),
    ],
    ids=str,
)
def test_a_wrong_recipe_is_refused_with_its_file_and_key(tmp_path, text, words):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_recipe(path)
    assert [word for word in [str(path), *words] if word not in str(caught.value)] == [], caught.value
    assert "\n" not in str(caught.value)


def test_saved_arguments_are_a_recipe_for_the_same_arguments(tmp_path):
    arguments = TrainingArguments(
        data_dir="Ünïcode: # dir", lora_targets=["c_attn", "mlp.c_proj"], lora_rslora=True, learning_rate=1e-5, seed=7
    )
    arguments.save(tmp_path / "arguments.yaml")
    assert resolve({}, read_recipe(tmp_path / "arguments.yaml")) == arguments


def test_the_command_line_wins_over_the_recipe_and_the_recipe_over_defaults():
    arguments = resolve({"lora_r": 4}, {"lora_r": 16, "batch_size": 2})
    assert arguments == dataclasses.replace(TrainingArguments(), lora_r=4, batch_size=2)


@pytest.mark.parametrize("given, recipe", [({"max_steps": 5}, {"epochs": 3.0}), ({"epochs": 3.0}, {"max_steps": 5})])
def test_a_typed_length_of_training_replaces_the_recipes_other_way_to_say_it(given, recipe):
    assert resolve(given, recipe) == TrainingArguments(**given)


@pytest.mark.parametrize(("typed", "kept"), [("data", "data_dir"), ("data_dir", "data")])
def test_one_place_of_data_takes_the_place_of_a_recipes_other(typed, kept):
    arguments = resolve({typed: "mine"}, {kept: "theirs", "lora_r": 3})
    assert (getattr(arguments, typed), getattr(arguments, kept), arguments.lora_r) == ("mine", None, 3)
    with pytest.raises(UserError, match="data and data_dir exclude each other"):
        resolve({typed: "mine", kept: "theirs"})
