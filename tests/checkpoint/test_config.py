"""GPT2Config against transformers' own: the same fields, the same defaults, the same files."""

import dataclasses
import json

import pytest
import transformers
from transformers.activations import ACT2FN

from common.errors import UserError
from gpt2_jittor.checkpoint.config import ACTIVATIONS, PRESETS, GPT2Config

# transformers has the classes as id2label
SHARED = [field.name for field in dataclasses.fields(GPT2Config) if field.name != "labels"]


def test_defaults_are_those_of_transformers():
    theirs = transformers.GPT2Config()
    for field in SHARED:
        assert getattr(GPT2Config(), field) == getattr(theirs, field), field


def test_the_classes_are_those_of_id2label(tmp_path):
    labels = ("joy", "fear", "love")
    ours = GPT2Config(labels=labels)
    (tmp_path / "config.json").write_text(json.dumps(ours.to_dict("GPT2ForSequenceClassification")))
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    assert theirs.architectures == ["GPT2ForSequenceClassification"] and theirs.num_labels == 3
    assert theirs.id2label == dict(enumerate(labels)) and theirs.label2id["fear"] == 1
    theirs.save_pretrained(tmp_path)
    assert GPT2Config.from_pretrained(tmp_path) == ours
    assert GPT2Config.from_dict({"num_labels": 2}, "x").labels == ("LABEL_0", "LABEL_1")


@pytest.mark.parametrize("named", [["a", "b"], {}, {"0": "a", "2": "b"}, {"a": "b"}, 3])
def test_classes_that_are_not_numbered_are_refused(named):
    with pytest.raises(UserError, match="x: id2label must map 0, 1"):
        GPT2Config.from_dict({"id2label": named}, "x")


def test_every_activation_is_known_to_transformers():
    assert all(name in ACT2FN for name in ACTIVATIONS)


def test_a_config_saved_by_transformers_is_read_with_every_value(tmp_path):
    given = {"vocab_size": 99, "n_positions": 17, "n_embd": 30, "n_layer": 2, "n_head": 3, "n_inner": 50}
    switches = {"activation_function": "relu", "resid_pdrop": 0.25, "tie_word_embeddings": False}
    transformers.GPT2Config(**given, **switches, scale_attn_weights=False).save_pretrained(tmp_path)
    assert GPT2Config.from_pretrained(tmp_path) == GPT2Config(**given, **switches, scale_attn_weights=False)


def test_transformers_builds_the_same_configuration_from_to_dict(tmp_path):
    ours = GPT2Config(n_embd=48, n_head=6, scale_attn_by_inverse_layer_idx=True, pad_token_id=3)
    (tmp_path / "config.json").write_text(json.dumps(ours.to_dict()))
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    assert theirs.architectures == ["GPT2LMHeadModel"]
    for field in SHARED:
        assert getattr(ours, field) == getattr(theirs, field), field


def test_several_end_tokens_are_kept_and_written_back(tmp_path):
    transformers.GPT2Config(eos_token_id=[7, 3]).save_pretrained(tmp_path)
    ours = GPT2Config.from_pretrained(tmp_path)
    assert ours == GPT2Config(eos_token_id=[7, 3]) and ours.to_dict()["eos_token_id"] == [7, 3]


def test_legacy_and_indifferent_entries_are_ignored():
    values = {
        "n_ctx": 1024,
        "summary_type": "cls_index",
        "task_specific_params": {},
        "gradient_checkpointing": False,
    }
    assert GPT2Config.from_dict(values, "config.json") == GPT2Config()


def test_the_synonyms_of_transformers_are_read():
    values = {
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 9,
    }
    assert GPT2Config.from_dict(values, "x") == GPT2Config(n_embd=64, n_layer=3, n_head=4, n_positions=9)


def test_the_mlp_is_four_times_as_wide_unless_told():
    assert GPT2Config(n_embd=24).mlp_size == 96
    assert GPT2Config(n_embd=24, n_inner=7).mlp_size == 7


def test_all_problems_are_in_one_line():
    with pytest.raises(UserError) as error:
        GPT2Config(n_embd=10, n_head=3, n_layer=0, resid_pdrop=1.0, activation_function="gelu_nwe")
    text = str(error.value)
    assert "\n" not in text
    for part in ("multiple of n_head 3", "n_layer", "resid_pdrop", "'gelu_nwe'", "gelu_new"):
        assert part in text


@pytest.mark.parametrize(
    "values",
    [
        {"n_embd": "768"},
        {"n_layer": True},
        {"n_head": 12.0},
        {"tie_word_embeddings": 1},
        {"eos_token_id": []},
        {"eos_token_id": [1, "2"]},
        {"eos_token_id": [True]},
        {"eos_token_id": "1"},
        {"bos_token_id": [1, 2]},
        {"activation_function": None},
        {"embd_pdrop": float("nan")},
        {"layer_norm_epsilon": 0},
        {"n_inner": 0},
        {"vocab_size": -1},
    ],
)
def test_a_wrong_value_is_refused_with_the_file_and_the_name(values):
    with pytest.raises(UserError, match=rf"^some/config.json: .*{next(iter(values))}"):
        GPT2Config.from_dict(values, "some/config.json")


@pytest.mark.parametrize("count", [10**9, 1e9, 2.0, -1, True, "3", [2], 10**5])
def test_a_number_of_classes_is_a_small_whole_number(count):
    with pytest.raises(UserError, match="^some/config.json: num_labels must be a whole number up to 65,536"):
        GPT2Config.from_dict({"num_labels": count}, "some/config.json")
    named = {str(index): f"class {index}" for index in range(10**5)}
    assert len(GPT2Config.from_dict({"id2label": named, "num_labels": 10**5}, "x").labels) == 10**5


@pytest.mark.parametrize("named", [5, "GPT2LMHeadModel", [5], {"a": 1}, [None], 1.5, True])
def test_architectures_are_names(named):
    with pytest.raises(UserError, match="^some/config.json: architectures must be a list of names"):
        GPT2Config.from_dict({"architectures": named}, "some/config.json")
    assert GPT2Config.from_dict({"architectures": None}, "x") == GPT2Config.from_dict({"architectures": []}, "x")


@pytest.mark.parametrize("name", ["resid_pdrop", "layer_norm_epsilon", "initializer_range", "n_embd", "n_inner"])
def test_a_number_without_end_is_told_in_a_short_line(name):
    with pytest.raises(UserError, match=name) as caught:
        GPT2Config.from_dict({name: int("9" * 4300)}, "x")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "values",
    [
        {"model_type": "llama"},
        {"add_cross_attention": True},
        {"quantization_config": {"bits": 4}},
        {"problem_type": "multi_label_classification"},
        {"problem_type": ["regression"]},
    ],
)
def test_a_model_that_cannot_be_computed_is_refused(values):
    with pytest.raises(UserError, match="config.json: .*(gpt2|not supported)"):
        GPT2Config.from_dict(values, "config.json")


@pytest.mark.parametrize(("content", "reason"), [(None, "missing"), ("{", "JSON"), ("[]", "not an object")])
def test_an_unreadable_config_is_named(tmp_path, content, reason):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=reason):
        GPT2Config.from_pretrained(tmp_path)


def test_presets_have_the_published_sizes():
    def parameters(config):  # tied; per block 12 n² weights and 13 n biases and norms
        width = config.n_embd
        blocks = config.n_layer * (12 * width**2 + 13 * width)
        return (config.vocab_size + config.n_positions) * width + blocks + 2 * width

    counts = {name: parameters(preset.config) for name, preset in PRESETS.items()}
    assert counts["gpt2"] == counts["microsoft/DialoGPT-small"] == 124_439_808
    assert counts["gpt2-medium"] == counts["microsoft/DialoGPT-medium"] == 354_823_168
    assert counts["gpt2-large"] == counts["microsoft/DialoGPT-large"] == 774_030_080
    assert counts["gpt2-xl"] == 1_557_611_200
