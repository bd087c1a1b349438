"""Several adapters on one model against PEFT's set_adapter and add_weighted_adapter(combination_type="cat")."""

import json

import numpy as np
import peft
import pytest
import tiny
import transformers
from adapters import assert_refused, make_adapter, values_of, with_adapters
from references import LOGITS, our_logits, torch_logits

import lora
from gpt2_jittor import GPT2ForSequenceClassification, GPT2LMHeadModel

WEIGHTS = {"a": 0.7, "b": -0.4, "c": 1.3}
PLAIN = {
    "a": {"r": 3, "lora_alpha": 7, "target_modules": ["c_attn"]},
    "b": {"r": 5, "lora_alpha": 4, "target_modules": ["c_attn", "mlp.c_proj"]},
    "c": {"r": 2, "lora_alpha": 3, "target_modules": ["h.1.mlp.c_fc"]},
}
EXPRESSION = {"r": 2, "target_modules": r"transformer\.h\.0\.(attn\.c_proj|mlp\.c_fc)"}
RICH = {
    "biases": {"r": 3, "target_modules": ["c_attn"], "bias": "all"},
    "own biases": {"r": 3, "target_modules": ["c_proj"], "bias": "lora_only"},
    "tokens": {"r": 2, "target_modules": ["c_fc"], "trainable_token_indices": [300, 4]},
    "head": {"r": 2, "target_modules": ["c_attn"], "modules_to_save": ["lm_head"]},
    "embedding and norm": {"r": 4, "target_modules": ["c_attn"], "modules_to_save": ["wte", "ln_f"]},
}


def make_all(base, folder, seed: int, adapters) -> dict:
    return {
        name: make_adapter(base, folder / name, seed + index, settings)
        for index, (name, settings) in enumerate(adapters.items())
    }


def pefts(base, folders):
    """PEFT's model with all of the adapters."""
    (first, folder), *others = folders.items()
    plain = transformers.GPT2LMHeadModel.from_pretrained(base)
    model = peft.PeftModel.from_pretrained(plain, folder, adapter_name=first)
    for name, folder in others:
        model.load_adapter(folder, name)
    return model.eval()


def assert_close(found, expected):
    # relative as well: sums of several adapters reach logits of some tens
    np.testing.assert_allclose(found, expected, rtol=LOGITS, atol=LOGITS)


def test_each_adapter_in_its_turn_gives_pefts_logits(base, ids, seed, tmp_path):
    folders = make_all(base, tmp_path, seed, PLAIN)
    adapters, reference = with_adapters(base, folders), pefts(base, folders)
    for name in ("b", "a", "c", "b"):
        adapters.use(name)
        reference.set_adapter(name)
        assert adapters.active == name
        assert_close(our_logits(adapters.model, ids), torch_logits(reference, ids))
        assert not lora.trainable(adapters.model)


def test_whatever_an_adapter_trains_is_switched(base, ids, seed, tmp_path):
    folders = make_all(base, tmp_path, seed, RICH)
    adapters = with_adapters(base, folders)
    for name in [*RICH, "biases", "head"]:
        adapters.use(name)
        alone = pefts(base, {name: folders[name]})
        assert_close(our_logits(adapters.model, ids), torch_logits(alone, ids))


def test_none_is_the_base_bit_for_bit(base, ids, seed, tmp_path):
    model = GPT2LMHeadModel.from_pretrained(base)
    before, logits = values_of(model), our_logits(model, ids)
    adapters = lora.Adapters(model)
    for name, folder in make_all(base, tmp_path, seed, PLAIN | RICH).items():
        adapters.load(folder, name)
        adapters.use(name)
        our_logits(model, ids)
    adapters.use(None)
    assert adapters.names == [*PLAIN, *RICH] and adapters.active is None
    assert values_of(model).keys() == before.keys()
    for name, value in values_of(model).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)
    np.testing.assert_array_equal(our_logits(model, ids), logits)


def test_a_weighted_sum_is_pefts_of_the_kind_cat(base, ids, seed, tmp_path):
    folders = make_all(base, tmp_path, seed, PLAIN)
    adapters, reference = with_adapters(base, folders), pefts(base, folders)
    reference.add_weighted_adapter([*WEIGHTS], [*WEIGHTS.values()], "sum", combination_type="cat")
    reference.set_adapter("sum")
    adapters.use(WEIGHTS)
    assert_close(our_logits(adapters.model, ids), torch_logits(reference, ids))


def test_a_weighted_sum_changes_the_weights_by_the_sum_of_the_changes(base, seed, tmp_path):
    # worked by hand, because PEFT scales a sum of rank-stabilised adapters by √r once more
    several = PLAIN | {"rs": {"r": 4, "lora_alpha": 6, "target_modules": ["c_fc"], "use_rslora": True}, "x": EXPRESSION}
    folders = make_all(base, tmp_path, seed, several)
    weights = WEIGHTS | {"rs": 0.5, "x": 2}
    before = values_of(GPT2LMHeadModel.from_pretrained(base))
    expected = dict(before)
    for name, weight in weights.items():
        model = GPT2LMHeadModel.from_pretrained(base)
        lora.load_adapter(model, folders[name])
        lora.merge(model)
        merged = values_of(model)
        expected = {key: value + weight * (merged[key] - before[key]) for key, value in expected.items()}
    adapters = with_adapters(base, folders)
    adapters.use(weights)
    lora.merge(adapters.model)
    found = values_of(adapters.model)
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=0, atol=1e-5, err_msg=key)  # a few roundings of some units


@pytest.mark.parametrize("more", [{}, {"x": EXPRESSION}], ids=["names", "an expression"])
def test_a_sum_is_saved_as_one_adapter_for_peft(base, ids, seed, tmp_path, more):
    folders = make_all(base, tmp_path, seed, PLAIN | more)
    weights = WEIGHTS | dict.fromkeys(more, 0.6)
    adapters = with_adapters(base, folders)
    adapters.save(tmp_path / "sum", weights)
    adapters.use(weights)
    expected = our_logits(adapters.model, ids)
    settings = json.loads((tmp_path / "sum/adapter_config.json").read_text())
    assert settings["r"] == settings["lora_alpha"] == 10 + 2 * len(more)
    assert settings["base_model_name_or_path"] == str(base)
    assert_close(torch_logits(pefts(base, {"sum": tmp_path / "sum"}), ids), expected)
    again = GPT2LMHeadModel.from_pretrained(base)
    lora.load_adapter(again, tmp_path / "sum")
    np.testing.assert_array_equal(our_logits(again, ids), expected)


def test_dropout_and_modes_follow_the_model_through_a_switch(base, seed, tmp_path):
    adapters = with_adapters(base, make_all(base, tmp_path, seed, {"a": PLAIN["a"], "t": RICH["tokens"]}))
    for mode in (adapters.model.train, adapters.model.eval):
        mode()
        for name in ("a", "t", None):
            adapters.use(name)
            assert {module.is_training() for module in adapters.model.modules()} == {adapters.model.is_training()}


@pytest.mark.parametrize(
    "name, word",
    [
        ("biases", "biases"),
        ("own biases", "biases"),
        ("tokens", "tokens"),
        ("head", "whole"),
        ("embedding and norm", "whole"),
    ],
)
def test_what_has_no_sum_is_refused(base, seed, tmp_path, name, word):
    adapters = with_adapters(base, make_all(base, tmp_path, seed, {"a": PLAIN["a"], name: RICH[name]}))
    adapters.use("a")
    assert_refused(lambda: adapters.use({"a": 0.5, name: 0.5}), repr(name), word, "cannot be combined")
    assert adapters.active == "a"


@pytest.mark.parametrize(
    "which, words",
    [
        ("absent", ["'absent'", "loaded are a"]),
        ({"a": 1, "absent": 1}, ["'absent'"]),
        ({}, ["at least one"]),
        ({"a": float("nan")}, ["'a'", "nan"]),
        ({"a": "1"}, ["'a'", "'1'"]),
    ],
    ids=str,
)
def test_unknown_adapters_and_impossible_weights_are_refused(base, seed, tmp_path, which, words):
    adapters = with_adapters(base, make_all(base, tmp_path, seed, {"a": PLAIN["a"]}))
    assert_refused(lambda: adapters.use(which), *words)


def test_an_adapter_that_does_not_fit_is_refused_and_the_one_in_use_stays(base, ids, seed, tmp_path):
    other = make_adapter(tiny.model_folder(tmp_path / "other", seed, n_embd=24), tmp_path / "foreign", seed, PLAIN["a"])
    adapters = with_adapters(base, make_all(base, tmp_path, seed, {"a": PLAIN["a"]}))
    adapters.use("a")
    before = our_logits(adapters.model, ids)
    assert_refused(lambda: adapters.load(other, "foreign"), str(other), "does not fit")
    assert adapters.names == ["a"] and adapters.active == "a"
    np.testing.assert_array_equal(our_logits(adapters.model, ids), before)


def classifiers(base, folder, seed: int, **settings):
    """A model that tells three classes apart, and an adapter of PEFT's for it."""
    GPT2ForSequenceClassification.from_pretrained(base, ["a", "b", "c"], seed).save_pretrained(folder / "base")
    reference = transformers.GPT2ForSequenceClassification.from_pretrained(folder / "base")
    config = peft.LoraConfig(fan_in_fan_out=True, r=3, target_modules=["c_attn"], **settings)
    peft.get_peft_model(reference, config).save_pretrained(folder / "adapter")
    return GPT2ForSequenceClassification.from_pretrained(folder / "base"), folder / "adapter"


def test_an_adapter_of_another_task_type_is_refused(base, ids, seed, tmp_path):
    model, classes = classifiers(base, tmp_path / "classes", seed, task_type="SEQ_CLS")
    talks = make_adapter(base, tmp_path / "talks", seed, PLAIN["a"])
    adapters, before = lora.Adapters(model), our_logits(model, ids)
    assert_refused(lambda: adapters.load(talks, "talks"), str(talks), "another task type, CAUSAL_LM")
    adapters.load(classes, "classes")
    assert adapters.names == ["classes"] and adapters.active is None
    np.testing.assert_array_equal(our_logits(model, ids), before)
    talker = lora.Adapters(GPT2LMHeadModel.from_pretrained(base))
    assert_refused(lambda: talker.load(classes, "classes"), str(classes), "another task type, SEQ_CLS")
    assert talker.names == []


def test_an_adapter_that_names_no_task_is_taken_by_the_model_that_it_fits(base, seed, tmp_path):
    model, classes = classifiers(base, tmp_path / "classes", seed, modules_to_save=["score"])
    assert json.loads((classes / "adapter_config.json").read_text())["task_type"] is None
    adapters = lora.Adapters(model)
    adapters.load(classes, "classes")
    adapters.use("classes")
    talker = lora.Adapters(GPT2LMHeadModel.from_pretrained(base))
    assert_refused(lambda: talker.load(classes, "classes"), "score")


def test_merged_or_trained_models_are_not_switched(base, seed, tmp_path):
    folders = make_all(base, tmp_path, seed, {"a": PLAIN["a"]})
    adapters = with_adapters(base, folders)
    adapters.use("a")
    assert_refused(lambda: adapters.load(folders["a"], "a"), "'a'", "in use")
    lora.merge(adapters.model)
    assert_refused(lambda: adapters.use(None), "unmerge")
    assert_refused(lambda: lora.Adapters(adapters.model), "already")
