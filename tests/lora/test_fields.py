"""Every field of adapter_config.json: at its default it says nothing; what would change the result is refused by name.

Nothing here needs Jittor.
"""

import json
import math
import tempfile
from pathlib import Path

import numpy as np
import peft
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from gpt2_jittor.checkpoint.write import write_safetensors
from lora.config import LoraConfig
from lora.files import read_adapter

DEFAULTS = peft.LoraConfig(task_type="CAUSAL_LM").to_dict() | {"target_modules": ["c_attn"]}
# a value of each of PEFT's fields that asks for another computation than plain LoRA's
CHANGING = {
    "alora_invocation_tokens": [5, 6],
    "arrow_config": {"top_k": 3},
    "kasa_config": {"beta": 0.1},
    "layer_replication": [[0, 1]],
    "megatron_config": {"hidden_size": 8},
    "monteclora_config": {"num_samples": 8},
    "target_parameters": ["c_attn.weight"],
    "use_bdlora": {"nblocks": 2},
    "use_qalora": True,
    "velora_config": {"rank": 1},
}
# a value of each that stored factors do not depend on
HARMLESS = {
    "auto_mapping": {"base_model_class": "GPT2LMHeadModel"},
    "corda_config": {"corda_method": "kpm"},
    "ensure_weight_tying": True,
    "eva_config": {"rho": 2.0},
    "fan_in_fan_out": True,
    "inference_mode": True,
    "loftq_config": {"loftq_bits": 4},
    "lora_ga_config": {"scale": "unit"},
    "layers_pattern": "h",
    "megatron_core": "megatron.other",
    "peft_version": "0.99.0",
    "qalora_group_size": 32,
    "revision": "main",
}
OURS = {
    *("base_model_name_or_path", "bias", "lora_alpha", "lora_dropout", "modules_to_save", "r", "target_modules"),
    *("task_type", "trainable_token_indices", "use_rslora", "peft_type", "init_lora_weights"),
    *("rank_pattern", "alpha_pattern", "exclude_modules", "layers_to_transform"),
    *("use_dora", "lora_bias"),
}
NEWER = ("rank_pattern", "alpha_pattern", "exclude_modules", "layers_to_transform", "use_dora", "lora_bias")
NOTHING = (None, False, {}, [], "")


def read(folder, **entries) -> LoraConfig:
    (folder / "adapter_config.json").write_text(json.dumps(DEFAULTS | entries))
    return LoraConfig.from_pretrained(folder)


def refusal(folder, **entries) -> str:
    with pytest.raises(UserError) as caught:
        read(folder, **entries)
    message = str(caught.value)
    assert message.startswith(f"{folder / 'adapter_config.json'}: ") and len(message) < 1000
    return message


def test_each_field_of_pefts_has_its_place_here():
    assert set(DEFAULTS) == OURS | CHANGING.keys() | HARMLESS.keys()
    assert len(DEFAULTS) == len(OURS) + len(CHANGING) + len(HARMLESS)


def test_pefts_defaults_are_read(tmp_path):
    config = read(tmp_path)
    for name in OURS - {"peft_type"}:
        entry = getattr(config, name)
        assert (list(entry) if isinstance(entry, tuple) else entry) == DEFAULTS[name], name


@pytest.mark.parametrize("name", CHANGING)
def test_what_changes_the_result_is_refused_by_name(tmp_path, name):
    message = refusal(tmp_path, **{name: CHANGING[name]})
    assert name in message and "may change the result" in message


@pytest.mark.parametrize("name", [*CHANGING, *NEWER])
@pytest.mark.parametrize("value", NOTHING, ids=repr)
def test_a_field_that_says_nothing_changes_nothing(tmp_path, name, value):
    assert read(tmp_path, **{name: value}) == read(tmp_path)


@pytest.mark.parametrize("name", HARMLESS)
@pytest.mark.parametrize("value", [..., *NOTHING], ids=repr)
def test_what_stored_factors_do_not_depend_on_is_read(tmp_path, name, value):
    assert read(tmp_path, **{name: HARMLESS[name] if value is ... else value}).shape() == read(tmp_path).shape()


@pytest.mark.parametrize("value", NOTHING, ids=repr)
def test_an_empty_field_of_a_later_peft_is_read(tmp_path, value):
    assert read(tmp_path, use_foolora=value) == read(tmp_path)


@pytest.mark.parametrize("value", [True, 0, 1, 0.5, "x", [0], {"a": None}, [[]]], ids=repr)
def test_a_field_of_a_later_peft_that_says_something_is_refused_by_name(tmp_path, value):
    assert "use_foolora" in refusal(tmp_path, use_foolora=value)
    assert "enable_lora" in refusal(tmp_path, enable_lora=[True, False, True])  # of 0.1 and 0.2


@pytest.mark.parametrize("name, value", [("target_modules", None), ("use_rslora", None), ("modules_to_save", [])])
@pytest.mark.parametrize("tokens", [None, [], {}], ids=repr)
def test_empty_values_of_fields_that_are_used_are_pefts_defaults(tmp_path, name, value, tokens):
    config = read(tmp_path, trainable_token_indices=tokens, **{name: value})
    assert config.shape() == read(tmp_path).shape()


HUGE = 10**4000  # JSON's longest numbers have 4,300 digits
LONG = ["x" * 10_000] * 1000
NUMBERS_BY_NAME = [5, True, "c_attn", ["c_attn"], {"c_attn": "8"}, {"c_attn": 0}, {"c_attn": True}, {"(": 4}]
WRONG = {
    "rank_pattern": [*NUMBERS_BY_NAME, {"c_attn": 2.5}, {"c_attn": 2**31}, {"c_attn": HUGE}],
    "alpha_pattern": [*NUMBERS_BY_NAME, {"c_attn": -1.5}, {"c_attn": HUGE}],
    "exclude_modules": [5, True, {"c_attn": 1}, [5], "("],
    "layers_to_transform": [1.5, True, "1", [-1], ["0"], {"a": 1}, 10**20, HUGE],
    "use_dora": [5, 0, "no", {"a": 1}],
    "lora_bias": [5, 0, "no", {"a": 1}],
    "init_lora_weights": ["loftq", "corda", "lora_ga", "pissa_niter_x", "pissa_2", "olora2"],
    "r": [0, -1, 2.5, 1e9, True, "8", [5], {"a": 1}, None, 10**20, HUGE],
    "lora_alpha": [0, -1, True, "8", [5], {"a": 1}, None, 1e39, HUGE, -HUGE],
    "lora_dropout": [1, -1, True, "0", [0], None, HUGE],
    "bias": [5, True, [], {}, None, "x" * 10_000],
    "use_rslora": [5, 0, "no", [], {"a": 1}, HUGE],
    "target_modules": [5, True, [], {}, "", [5], [None], {"c_attn": 1}, ["c_attn", 5], "(", "a{99999999999}", [LONG]],
    "modules_to_save": [5, True, "lm_head", {"lm_head": 1}, [5], [None], ["("], [LONG]],
    "trainable_token_indices": [
        *(5, True, "x", [-1], [1.0], [True], [1, 1], ["1"], [[1]], [10**20], [HUGE], LONG),
        *({"wpe": [1]}, {"e": [1]}, {"wte": [1], "lm_head": [1]}, {"wte": 5}, dict.fromkeys(LONG, [1])),
    ],
    "base_model_name_or_path": [5, True, 1.5, [], {"a": 1}, LONG],
    "task_type": [5, True, [], {}, "X", "causal_lm", LONG],
    "peft_type": [5, None, [], "IA3", LONG],
}


def begun(value) -> str:
    """A value's name in a test's: pytest hands it on with each report, of which some values are 10 MB."""
    return str(value)[:60]


@pytest.mark.parametrize(
    "name, value", [(name, value) for name, values in WRONG.items() for value in values], ids=begun
)
def test_values_of_another_type_or_size_are_refused_by_name(tmp_path, name, value):
    assert name in refusal(tmp_path, **{name: value})


@pytest.mark.parametrize("settings", [{"r": 10**5000}, {"r": -(10**5000)}, {"trainable_token_indices": [10**5000]}])
def test_numbers_that_python_does_not_print_are_refused(settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        LoraConfig(**settings)


numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False)  # Jittor rounds those
leaves = st.none() | st.booleans() | numbers | st.text()
anything = st.recursive(leaves, lambda part: st.lists(part) | st.dictionaries(st.text(), part), max_leaves=5)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from([*DEFAULTS, "later"]), anything, max_size=4))
def test_any_values_at_all_are_settings_that_stay_or_one_line(entries):
    with tempfile.TemporaryDirectory() as folder:
        try:
            config = read(Path(folder), **entries)
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 3000
            return
        Path(folder, "adapter_config.json").write_text(json.dumps(config.to_dict()))
        assert LoraConfig.from_pretrained(folder).to_dict() == config.to_dict()
        assert math.isfinite(config.scaling)


def adapter(folder, factors: dict, **entries):
    """An adapter's folder with these tensors; returns it."""
    read(folder, **entries)
    tensors = {f"base_model.model.transformer.h.0.attn.c_attn.{name}": array for name, array in factors.items()}
    write_safetensors(folder / "adapter_model.safetensors", tensors)
    return folder


def factors(rank: int, b_rank: int | None = None, size: float = 1.0) -> dict:
    a, b = np.full((rank, 6), size, np.float32), np.full((18, rank if b_rank is None else b_rank), size, np.float32)
    return {"lora_A.weight": a, "lora_B.weight": b}


def test_a_sound_file_is_read(tmp_path):
    assert read_adapter(adapter(tmp_path, factors(8))).config.r == 8


@pytest.mark.parametrize("r", [7, 9, 1_000_000_000])
def test_a_rank_that_the_file_does_not_hold_is_told_from_its_shapes(tmp_path, r):
    with pytest.raises(UserError, match=f"lora_A.weight has rank 8, adapter_config.json says r {r}"):
        read_adapter(adapter(tmp_path, factors(8), r=r))


@pytest.mark.parametrize(
    "stored, words",
    [
        (factors(8, b_rank=7), "lora_B.weight has rank 7"),
        ({"lora_A.weight": factors(8)["lora_A.weight"]}, "is not one of two matrices"),
        ({"lora_B.weight": factors(8)["lora_B.weight"]}, "is not one of two matrices"),
        (factors(8) | {"lora_A.weight": np.zeros(8, np.float32)}, "is not one of two matrices"),
        ({"bias": np.zeros(18, np.float32)}, "no matrices"),
        ({}, "no matrices"),
    ],
)
def test_factors_that_are_none_are_refused(tmp_path, stored, words):
    with pytest.raises(UserError, match=words):
        read_adapter(adapter(tmp_path, stored))


@pytest.mark.parametrize("alpha, size", [(1e38, 1.0), (1.0, 1e19), (3e38, 0.2)])
def test_a_change_beyond_float32_is_refused(tmp_path, alpha, size):
    with pytest.raises(UserError, match="lora_alpha .* beyond float32"):
        read_adapter(adapter(tmp_path, factors(8, size=size * 8), lora_alpha=alpha))
