"""What is written as adapter_config.json names only fields that PEFT knows: each version since 0.4.

PEFT 0.6 … 0.13 end with a TypeError at a name that they do not know, be its value null; later ones warn. Nothing is
installed for it: NEW is what each version's LoraConfig accepts, read from the source of the first release of each minor
version (`pip download peft==0.4.0 --no-deps`, …; the annotated fields of LoraConfig, PeftConfig and PeftConfigMixin).
"""

import json

import peft
import pytest
import tiny

import lora
from gpt2_jittor import GPT2LMHeadModel
from lora.__main__ import combine, parse
from lora.config import LoraConfig
from lora.files import read_adapter
from training.checkpoint import save_trained

# minor version: the fields that it added to those before; none was ever taken away
NEW = {
    4: {
        *("auto_mapping", "base_model_name_or_path", "bias", "fan_in_fan_out", "inference_mode", "init_lora_weights"),
        *("layers_pattern", "layers_to_transform", "lora_alpha", "lora_dropout", "modules_to_save", "peft_type", "r"),
        *("revision", "target_modules", "task_type"),
    },
    5: set(),
    6: {"alpha_pattern", "rank_pattern"},
    7: {"loftq_config", "megatron_config", "megatron_core"},
    8: {"use_rslora"},
    9: {"use_dora"},
    10: {"layer_replication"},
    11: set(),
    12: {"runtime_config"},
    13: set(),
    14: {"eva_config", "exclude_modules", "lora_bias"},
    15: {"corda_config", "trainable_token_indices"},
    16: {"qalora_group_size", "use_qalora"},
    17: {"target_parameters"},
    18: {"alora_invocation_tokens", "arrow_config", "ensure_weight_tying", "peft_version"},
    19: {"lora_ga_config", "use_bdlora"},
    20: {"monteclora_config", "velora_config"},
    21: {"kasa_config"},
}
KNOWN = {minor: set().union(*(NEW[older] for older in NEW if older <= minor)) for minor in NEW}
# what decides how a stored adapter computes: without these, 0.4 would take its own defaults
NEEDED = {
    *("peft_type", "task_type", "base_model_name_or_path", "inference_mode", "r", "lora_alpha", "lora_dropout"),
    *("target_modules", "bias", "fan_in_fan_out", "modules_to_save", "init_lora_weights"),
}
# settings, and the first minor version of PEFT that can do what they say
EVERY = {
    "defaults": ({}, 4),
    "all that is old": (
        {"r": 3, "lora_alpha": 7.5, "lora_dropout": 0.1, "bias": "all", "target_modules": ("c_attn", "mlp.c_proj")}
        | {"modules_to_save": ["ln_f"], "base_model_name_or_path": "gpt2", "task_type": None},
        4,
    ),
    "an expression": ({"target_modules": r".*\.c_fc"}, 4),
    "a classifier": ({"task_type": "SEQ_CLS", "modules_to_save": ["score"]}, 4),
    "random factors": ({"init_lora_weights": False}, 4),
    "gaussian factors": ({"init_lora_weights": "gaussian"}, 4),
    "some blocks": ({"layers_to_transform": [0, 1], "layers_pattern": "h"}, 4),
    "the first block": ({"layers_to_transform": 0}, 4),
    "embeddings and head": ({"target_modules": ("wte", "lm_head")}, 4),
    "queries and values": ({"qkv": ("q", "v")}, 4),
    "queries, values and others": ({"qkv": ("q", "v"), "target_modules": ["c_attn", "c_fc"]}, 6),
    "patterns": ({"rank_pattern": {"c_attn": 4}, "alpha_pattern": {"c_attn": 2.5}}, 6),
    "rslora": ({"use_rslora": True}, 8),
    "dora": ({"use_dora": True}, 9),
    "without some": ({"exclude_modules": ["h.0.attn.c_attn"]}, 14),
    "bias of B": ({"lora_bias": True}, 14),
    "pissa": ({"init_lora_weights": "pissa"}, 4),
    "tokens": ({"trainable_token_indices": [3, 5]}, 15),
    "tokens and rslora": ({"trainable_token_indices": (3, 5), "use_rslora": True}, 15),
}
every_setting = pytest.mark.parametrize("settings, since", EVERY.values(), ids=EVERY)


@every_setting
def test_every_version_that_can_do_it_knows_every_field(settings, since):
    written = LoraConfig(**settings).to_dict()
    for minor in NEW:
        assert (written.keys() <= KNOWN[minor]) == (minor >= since), f"PEFT 0.{minor}: {written.keys() - KNOWN[minor]}"
    assert written.keys() >= NEEDED


@every_setting
def test_what_is_written_reads_as_it_was(settings, since, tmp_path):
    config = LoraConfig(**settings)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config.to_dict()))
    again = LoraConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict()
    assert again.scaling == config.scaling and again.shape() == config.shape()


@every_setting
def test_the_installed_peft_reads_the_same_settings(settings, since, tmp_path):
    config = LoraConfig(**settings)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config.to_dict()))
    theirs = peft.LoraConfig.from_pretrained(tmp_path).to_dict()
    for name, value in config.to_dict().items():
        entries = [sorted(entry) if isinstance(entry, list | set) else entry for entry in (value, theirs[name])]
        assert entries[0] == entries[1], name


def test_the_table_is_true_of_the_installed_peft():
    minor = int(peft.__version__.split(".")[1])
    fields = peft.LoraConfig().to_dict().keys() | {"runtime_config"}  # which it accepts and does not write
    assert fields == KNOWN[minor]


def test_whatever_writes_an_adapter_writes_it_for_old_versions(tmp_path, monkeypatch, capsys):
    base = tiny.model_folder(tmp_path / "base", seed=1)
    for seed, name in enumerate(("a", "b")):
        model = lora.inject(GPT2LMHeadModel.from_pretrained(base), lora.LoraConfig(r=2), seed)
        lora.save_adapter(model, tmp_path / name)
    save_trained(model, tmp_path / "checkpoint")
    arguments = ["combine", "--adapter", tmp_path / "a", tmp_path / "b", "--weights", 0.5, 0.5]
    monkeypatch.setattr("sys.argv", ["lora", *map(str, arguments), "--output", str(tmp_path / "combined")])
    combine(parse())
    adapters = lora.Adapters(GPT2LMHeadModel.from_pretrained(base))
    for name in ("a", "b"):
        adapters.load(tmp_path / name, name)
    adapters.save(tmp_path / "sum", {"a": 1, "b": 2})
    for name in ("a", "checkpoint", "combined", "sum"):
        written = json.loads((tmp_path / name / "adapter_config.json").read_text())
        assert NEEDED <= written.keys() <= KNOWN[4], name
        assert read_adapter(tmp_path / name).config.to_dict() == written, name
