"""LoRA against PEFT on the same model: targets, counts, logits, gradients, and files in both directions."""

import json
import math
import re

import numpy as np
import peft
import pytest
import safetensors
import tiny
import torch
import transformers
from adapters import our_name, values_of
from lora_settings import IDS, assert_close, every_setting, every_target, our_model, peft_model, with_defaults
from references import GRADIENT, LOGITS, our_logits, torch_logits

import lora
from gpt2_jittor import GPT2Config, GPT2LMHeadModel
from gpt2_jittor.runtime.backend import jt
from training.optimizer import AdamW


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.model_folder(tmp_path_factory.mktemp("base"), seed=1)


@every_target
def test_targets_are_the_ones_peft_chooses(base, settings):
    reference = peft_model(base, settings)
    wrapped = {our_name(name) for name, _ in reference.named_parameters() if ".lora_" in name}
    assert {name for name in values_of(our_model(base, settings)) if ".lora_" in name} == wrapped


@every_setting
def test_the_settings_of_a_path_are_those_of_pefts_layer(base, settings):
    settings = settings | {"lora_dropout": 0.25}
    config = lora.LoraConfig(**with_defaults(settings))
    layers = [
        (name, it)
        for name, it in peft_model(base, settings).named_modules()
        if isinstance(it, peft.tuners.lora.LoraLayer)
    ]
    assert layers
    for name, layer in layers:
        found = config.for_path(our_name(name))
        dropout = layer.lora_dropout["default"].p
        expected = (layer.r["default"], layer.lora_alpha["default"], dropout, layer.scaling["default"])
        assert (found.rank, found.alpha, found.dropout, found.scaling) == expected


@every_setting
def test_as_much_is_trained_as_by_peft(base, settings):
    trained, total = peft_model(base, settings).get_nb_trainable_parameters()
    found = lora.count(our_model(base, settings))
    assert found[0] == trained
    if "modules_to_save" not in settings:  # PEFT keeps, and counts, the originals too
        assert found[1] == total - trained


def test_gpt2_small_with_rank_8_on_attention_trains_442368_of_its_numbers():
    model = GPT2LMHeadModel(GPT2Config())
    lora.inject(model, lora.LoraConfig(r=8, target_modules=["c_attn", "attn.c_proj"]))
    assert lora.count(model) == (442_368, 124_439_808)  # 12 · 8 · (768 + 3·768 + 768 + 768); GPT-2 small's own


@every_setting
def test_an_adapter_from_peft_gives_pefts_logits(base, settings, tmp_path):
    reference = peft_model(base, settings)
    reference.save_pretrained(tmp_path)
    model = GPT2LMHeadModel.from_pretrained(base)
    lora.load_adapter(model, tmp_path)
    assert not lora.trainable(model)
    assert_close(our_logits(model, IDS), torch_logits(reference, IDS), LOGITS)


@every_setting
def test_our_adapter_gives_our_logits_in_peft(base, settings, tmp_path):
    model = our_model(base, settings)
    lora.save_adapter(model, tmp_path)
    plain = transformers.GPT2LMHeadModel.from_pretrained(base)
    before = torch_logits(plain, IDS)
    with_adapter = torch_logits(peft.PeftModel.from_pretrained(plain, tmp_path), IDS)
    assert_close(our_logits(model, IDS), with_adapter, LOGITS)
    assert np.abs(with_adapter - before).max() > 100 * LOGITS  # the adapter acts


@every_setting
def test_our_adapters_files_have_pefts_keys_shapes_and_metadata(base, settings, tmp_path):
    peft_model(base, settings).save_pretrained(tmp_path / "peft")
    lora.save_adapter(our_model(base, settings), tmp_path / "ours")
    assert {path.name for path in (tmp_path / "ours").iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    found, expected = {}, {}
    for folder, shapes in (("ours", found), ("peft", expected)):
        with safetensors.safe_open(tmp_path / folder / "adapter_model.safetensors", "np") as file:
            assert file.metadata()["format"] == "pt"
            shapes |= {key: file.get_tensor(key).shape for key in file.keys()}  # noqa: SIM118 (no mapping)
    # with bias "all", PEFT also writes what it keeps beside a module that is saved whole; it reads neither back;
    # and the weights of a head and an embedding that have LoRA, which are the base's
    besides = r"\.(original_module|modules_to_save)\.|(lm_head|wte)\.base_layer"
    expected = {key: s for key, s in expected.items() if not re.search(besides, key)}
    assert found == expected
    ours, theirs = (json.loads((tmp_path / f / "adapter_config.json").read_text()) for f in ("ours", "peft"))
    # PEFT looks at each layer's orientation itself, and writes that of the last one
    for name in set(ours) - {"base_model_name_or_path", "fan_in_fan_out"}:
        entries = [sorted(v) if isinstance(v, list) else v for v in (ours[name], theirs[name])]  # PEFT's are sets
        assert entries[0] == entries[1], name


@every_setting
def test_each_gradient_is_pefts(base, settings):
    reference, model = peft_model(base, settings), our_model(base, settings)
    for name, parameter in reference.named_parameters():
        if parameter.requires_grad:
            model.parameter(our_name(name)).assign(parameter.detach().numpy())
    ids, labels, mask = tiny.padded_batch(seed=6)
    reference(torch.tensor(ids), attention_mask=torch.tensor(mask), labels=torch.tensor(labels)).loss.backward()
    expected = {our_name(n): p.grad.numpy() for n, p in reference.named_parameters() if p.requires_grad}
    names, parameters = zip(*lora.trainable(model), strict=True)
    gradients = jt.grad(model.loss(ids, labels, mask), list(parameters))
    found = {name: gradient.numpy() for name, gradient in zip(names, gradients, strict=True)}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert np.linalg.norm(found[name] - gradient) <= GRADIENT * np.linalg.norm(gradient), name


@pytest.mark.parametrize("init", [True, False, "gaussian"])
def test_fresh_factors_are_drawn_as_peft_draws_them(base, init):
    config = {"r": 24, "target_modules": ["c_attn", "c_fc"], "init_lora_weights": init}  # both are 36 wide
    torch.manual_seed(9)
    plain = transformers.GPT2LMHeadModel.from_pretrained(base)
    reference = peft.get_peft_model(plain, peft.LoraConfig(fan_in_fan_out=True, **config))
    model = lora.inject(GPT2LMHeadModel.from_pretrained(base), lora.LoraConfig(**config))
    theirs = {our_name(name): parameter.detach().numpy() for name, parameter in reference.named_parameters()}
    bounds = {"lora_A": math.inf if init == "gaussian" else 1 / math.sqrt(36), "lora_B": 1 / math.sqrt(24)}
    for factor, bound in bounds.items():
        ours, expected = (
            np.concatenate([v.ravel() for k, v in values.items() if factor in k])
            for values in (values_of(model), theirs)
        )
        assert np.abs(ours).max() <= bound and np.abs(expected).max() <= bound
        # a deviation estimated from 3,456 draws (A; B has more) errs by 1.2 % as its own deviation: 4 times √2 that
        assert ours.std() == pytest.approx(expected.std(), rel=0.07)
        assert abs(ours.mean()) <= 4 * expected.std() / math.sqrt(len(ours))


@pytest.mark.parametrize("init", [True, "gaussian"])
def test_a_fresh_adapter_changes_no_logit(base, init):
    model = GPT2LMHeadModel.from_pretrained(base)
    before = our_logits(model, IDS)
    lora.inject(model, lora.LoraConfig(init_lora_weights=init, target_modules=["c_attn", "c_proj", "c_fc"]))
    np.testing.assert_array_equal(our_logits(model, IDS), before)


def test_the_seed_decides_the_fresh_factors(base):
    config = lora.LoraConfig()
    first, again, other = (
        values_of(lora.inject(GPT2LMHeadModel.from_pretrained(base), config, seed)) for seed in (4, 4, 5)
    )
    name = "transformer.h.1.attn.c_attn.lora_A.weight"
    np.testing.assert_array_equal(first[name], again[name])
    assert (first[name] != other[name]).all()


def test_modes_leave_exactly_the_adapter_trainable(base):
    model = our_model(base, {"bias": "lora_only", "modules_to_save": ["ln_f"]})
    expected = {n for n in values_of(model) if ".lora_" in n or "ln_f" in n or n.endswith("c_attn.bias")}
    for switch in (model.eval, model.train, model.eval, model.train):
        switch()
        assert {name for name, _ in lora.trainable(model)} == expected


def test_training_leaves_the_base_bit_identical(tmp_path):
    model = GPT2LMHeadModel.from_pretrained(tiny.model_folder(tmp_path, seed=1, dropout=0.1))
    base = values_of(model)
    lora.inject(model, lora.LoraConfig(r=3, lora_dropout=0.2, target_modules=["c_attn", "c_proj", "c_fc"])).train()
    fresh = values_of(model)
    optimizer = AdamW(lora.trainable(model), weight_decay=0.1)
    for seed in range(3):
        gradients = jt.grad(model.loss(*tiny.padded_batch(seed)), optimizer.parameters)
        optimizer.step(gradients, 0.01)
    trained = values_of(model)
    assert trained.keys() == fresh.keys() and base.keys() < fresh.keys()
    for name, value in trained.items():
        assert np.array_equal(value, fresh[name]) == (name in base), name
