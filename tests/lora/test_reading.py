"""Adapters whose names match by their end, or nothing: what PEFT makes of the same folder is the reference."""

from types import SimpleNamespace

import numpy as np
import peft
import pytest
import safetensors.torch
import tiny
import torch
from adapters import (
    PREFIX,
    assert_logits,
    assert_refused,
    edit,
    make_adapter,
    pefts_logits,
    plain_logits,
    with_adapter,
    with_adapters,
)
from references import LOGITS, our_logits

import lora
from gpt2_jittor import GPT2LMHeadModel
from lora.config import LoraConfig
from lora.files import WEIGHTS
from training.checkpoint import save_trained

# settings that PEFT trains, saves and loads
UNUSUAL = {
    "a head by its name's end": {"modules_to_save": ["head"]},
    "a norm by its name's end": {"modules_to_save": ["n_f"]},
    "all first norms by their names' end": {"modules_to_save": ["_1"]},
    "targets of other models": {"target_modules": ["c_attn", "q_proj", "v_proj"]},
    "layers of other models": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "layers of other models alone": {"modules_to_save": ["embed_tokens", "model.lm_head"]},
    "a projection that is a target too": {"target_modules": ["c_attn", "c_fc"], "modules_to_save": ["c_fc"]},
    "one layer's projection of many": {"target_modules": ["c_attn", "c_fc"], "modules_to_save": ["h.1.mlp.c_fc"]},
    "every projection": {"target_modules": "all-linear"},
    "PEFT's own choice": {"target_modules": None},
    "tokens by the embedding's end": {"target_modules": ["c_fc"], "trainable_token_indices": {"te": [300, 4]}},
}
every_setting = pytest.mark.parametrize("settings", UNUSUAL.values(), ids=UNUSUAL)


@every_setting
def test_names_match_as_pefts_do(base, ids, seed, tmp_path, settings):
    folder = make_adapter(base, tmp_path / "a", seed, {"r": 3} | {"target_modules": ["c_attn"]} | settings)
    expected = pefts_logits(base, folder, ids)
    model = with_adapter(base, folder)
    assert_logits(our_logits(model, ids), expected, plain_logits(base, ids))
    adapters = with_adapters(base, {"a": folder})
    adapters.use("a")
    np.testing.assert_allclose(our_logits(adapters.model, ids), expected, rtol=0, atol=LOGITS)
    # training goes on with the names as they were, for PEFT again
    save_trained(model, tmp_path / "again")
    before, after = (LoraConfig.from_pretrained(path) for path in (folder, tmp_path / "again"))
    assert after.to_dict() == before.to_dict()
    np.testing.assert_allclose(pefts_logits(base, tmp_path / "again", ids), expected, rtol=0, atol=LOGITS)


def test_an_empty_list_of_tokens_is_none(base, ids, seed, tmp_path):
    """PEFT writes rows [0, width] for it, and then fails when it computes."""
    settings = {"r": 3, "target_modules": ["c_attn"]}
    folder = make_adapter(base, tmp_path / "a", seed, settings | {"trainable_token_indices": []})
    found = our_logits(with_adapter(base, folder), ids)
    plain = make_adapter(base, tmp_path / "b", seed, settings)
    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    assert any(not tensor.numel() for tensor in tensors.values())
    safetensors.torch.save_file({key: t for key, t in tensors.items() if ".lora_" in key}, plain / WEIGHTS)
    assert_logits(found, pefts_logits(base, plain, ids), plain_logits(base, ids))


def random_names(rng) -> list[str]:
    """Whole paths, their ends at a dot or anywhere, and names of other models."""
    parts = [f"transformer.h.{layer}.{name}" for layer in (0, 1) for name in ("attn.c_attn", "mlp.c_fc", "mlp.c_proj")]
    whole = [str(path) for path in rng.choice([*parts, "lm_head", "transformer.ln_f"], 3)]
    cut = [path[rng.integers(0, len(path)) :] for path in whole]
    return [str(name) for name in rng.choice([*whole, *cut, "q_proj", "c_attn", "fc", "attn", ""], 3)]


def test_target_names_choose_what_pefts_choose(rng):
    paths = [*dict(tiny.hf_model(seed=0).named_modules())]
    chosen = set()
    for _ in range(300):
        targets, saved = random_names(rng), random_names(rng)[: rng.integers(0, 3)]
        more = {"exclude_modules": random_names(rng)[:1] if rng.random() < 0.3 else None}
        if rng.random() < 0.5:
            more["layers_to_transform"] = [1] if rng.random() < 0.5 else int(rng.integers(0, 2))
            more["layers_pattern"] = [None, "h", ["x", "h"], "transformer"][rng.integers(0, 4)]
        config = LoraConfig(target_modules=targets, modules_to_save=saved, **more)
        theirs = SimpleNamespace(target_modules=targets, modules_to_save=saved, target_parameters=None, **more)
        for path in filter(None, paths):
            found = peft.tuners.tuners_utils.check_target_module_exists(theirs, path)
            is_target = bool(found) and not isinstance(found, peft.tuners.tuners_utils._ExcludedModule)
            assert config.targets(path) == is_target, (path, targets, saved)
            chosen.add(is_target)
            assert config.saves(path) == any(path.endswith(name) for name in saved)  # _set_trainable's own words
    assert chosen == {True, False}


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"target_modules": ["q_proj", "v_proj"]}, ["target_modules", "'q_proj', 'v_proj'", "c_attn, c_proj, c_fc"]),
        ({"target_modules": r".*\.q_proj"}, ["target_modules", "q_proj"]),
        ({"modules_to_save": ["attn.c_attn"]}, ["modules_to_save", "nothing is left for LoRA"]),
        ({"target_modules": ["c_attn", "mlp"]}, ["transformer.h.0.mlp", "no projection"]),
        ({"modules_to_save": ["mlp"]}, ["transformer.h.0.mlp cannot be saved whole"]),
        # names that match more, or less, than the file holds
        ({"target_modules": ["c_attn", "c_fc"]}, ["4 missing", "mlp.c_fc.lora_A.weight"]),
        ({"target_modules": ["h.0.attn.c_attn", "q_proj"]}, ["2 unexpected", "h.1.attn.c_attn.lora_A.weight"]),
        ({"modules_to_save": ["ln_f"]}, ["2 missing", "ln_f.weight"]),
        ({"trainable_token_indices": [4]}, ["1 missing", "trainable_tokens_delta"]),
        ({"trainable_token_indices": [301]}, ["vocabulary has 302", "301"]),
        ({"trainable_token_indices": [2**31 - 1]}, ["vocabulary has 2147483648", "301"]),
        ({"r": 1_000_000_000}, ["lora_A.weight", "rank 3", "r 1000000000"]),
    ],
    ids=str,
)
def test_names_and_the_files_tensors_must_agree(base, seed, tmp_path, settings, words):
    folder = make_adapter(base, tmp_path / "a", seed, {"r": 3, "target_modules": ["c_attn"]})
    edit(folder, **settings)
    model = GPT2LMHeadModel.from_pretrained(base)
    assert_refused(lambda: lora.load_adapter(model, folder), *words)
    assert_refused(lambda: lora.Adapters(model).load(folder, "a"), *words)
    assert model.adapter_config is None  # as it was


def test_factors_of_another_width_are_refused_before_any_is_made(base, tmp_path, monkeypatch):
    """As small as A [r, 1] and B [1, r] are in the file, the model's own would be of r · width numbers."""
    lora.save_adapter(lora.inject(GPT2LMHeadModel.from_pretrained(base), lora.LoraConfig(r=2)), tmp_path / "a")
    r = 100_000
    tensors = {f"{PREFIX}.lora_A.weight": torch.ones(r, 1), f"{PREFIX}.lora_B.weight": torch.ones(1, r)}
    safetensors.torch.save_file(tensors, tmp_path / "a" / WEIGHTS)
    edit(tmp_path / "a", r=r)
    monkeypatch.setattr("lora.linear.LoraLinear.from_base", lambda *_: pytest.fail("factors were made"))
    model = GPT2LMHeadModel.from_pretrained(base)
    assert_refused(lambda: lora.load_adapter(model, tmp_path / "a"), f"[{r}, 1] instead of [{r}, 36]")
    assert_refused(lambda: lora.Adapters(model).load(tmp_path / "a", "a"), f"[{r}, 1] instead of [{r}, 36]")


@pytest.mark.parametrize("r", [37, 10**6, 10**9])
def test_a_rank_beyond_the_models_width_is_not_injected(base, r):
    model = GPT2LMHeadModel.from_pretrained(base)
    assert_refused(lambda: lora.inject(model, lora.LoraConfig(r=r)), f"r {r}", "width, 36")
