"""An adapter that is merged while its base is read narrow: the same weights as when it is merged before."""

import numpy as np
import pytest
import tiny
from adapters import assert_refused, edit, make_adapter
from references import our_logits

import lora
from gpt2_jittor import GPT2LMHeadModel
from gpt2_jittor.model.quantized import quantize
from gpt2_jittor.ops.narrow import FORMATS
from lora.load import load
from lora.source import find
from lora.streaming import can_be_merged

IDS = tiny.random_ids(seed=5)
PROJECTIONS = ["c_attn", "c_proj", "c_fc"]
KINDS = {
    "all projections": {"target_modules": PROJECTIONS, "lora_alpha": 31},
    "ranks of their own": {"target_modules": PROJECTIONS, "rank_pattern": {"h.0.attn.c_attn": 3}, "use_rslora": True},
    "some blocks": {"target_modules": ["c_fc"], "layers_to_transform": [1]},
}
MORE = {
    "DoRA": {"target_modules": ["c_fc"], "use_dora": True},
    "biases": {"target_modules": ["c_fc"], "bias": "all"},
    "tokens": {"target_modules": ["c_fc"], "trainable_token_indices": [5, 7]},
    "PiSSA": {"target_modules": ["c_fc"], "init_lora_weights": "pissa"},
    "the embedding": {"target_modules": ["c_fc", "wte"]},
    "a whole layer": {"target_modules": ["c_fc"], "modules_to_save": ["ln_f"]},
}


@pytest.fixture(params=[*KINDS, *MORE])
def kind(request):
    """What an adapter is made of."""
    return request.param


@pytest.mark.parametrize("weights", FORMATS)
def test_a_model_that_is_read_with_its_adapter_is_the_merged_one(base, tmp_path, seed, kind, weights):
    folder = make_adapter(base, tmp_path / "adapter", seed, {"r": 4, **(KINDS | MORE)[kind]})
    source = find(str(base), folder)
    assert can_be_merged(source.adapter) == (kind in KINDS)
    expected = GPT2LMHeadModel.from_pretrained(base)
    lora.load_adapter(expected, folder)
    lora.merge(expected)
    quantize(expected, weights)
    found = load(source, weights)
    assert found.quantized == weights and found.is_plain
    np.testing.assert_array_equal(our_logits(found, IDS), our_logits(expected, IDS))


WRONG = [{"r": 5}, {"target_modules": ["c_attn", "c_fc"]}, {"use_dora": True}, {"bias": "all"}, {"lora_bias": True}]
WRONG += [{"modules_to_save": ["ln_f"]}, {"trainable_token_indices": [3]}]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_an_adapter_that_lacks_what_it_says_is_refused(base, tmp_path, wrong):
    folder = make_adapter(base, tmp_path / "adapter", 1, {"r": 4, "target_modules": ["c_fc"]})
    edit(folder, **wrong)
    assert_refused(lambda: load(find(str(base), folder), "int8"), str(folder))
