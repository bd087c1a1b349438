"""Adapters in PyTorch's format, and under the keys of older versions of PEFT: as good as safetensors, and as safe."""

import json
import pickle
import re

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
from adapters import (
    PREFIX,
    assert_logits,
    assert_refused,
    make_adapter,
    pefts_logits,
    plain_logits,
    run_lora,
    with_adapter,
    with_adapters,
)
from references import LOGITS, our_logits, torch_logits

from lora.combination import combine
from lora.files import ARCHIVE, WEIGHTS, read_adapter
from lora.inspection import inspect


def to_archive(folder) -> None:
    """Writes the adapter's tensors as adapter_model.bin instead."""
    torch.save(safetensors.torch.load_file(folder / WEIGHTS), folder / ARCHIVE)
    (folder / WEIGHTS).unlink()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_adapters_in_pytorchs_format_are_read(base, ids, rng, seed, tmp_path, dtype):
    folder = make_adapter(
        base, tmp_path / "a", seed, {"r": 3, "target_modules": ["c_attn"], "modules_to_save": ["lm_head"]}
    )
    tensors = {key: t.to(dtype) for key, t in safetensors.torch.load_file(folder / WEIGHTS).items()}
    safetensors.torch.save_file(tensors, folder / WEIGHTS)
    to_archive(folder)
    expected = pefts_logits(base, folder, ids)
    model = with_adapter(base, folder)
    assert_logits(our_logits(model, ids), expected, plain_logits(base, ids))
    assert read_adapter(folder).base is None
    summary = inspect(folder, base)
    assert summary["bytes"] == (folder / ARCHIVE).stat().st_size and len(summary["projections"]) == 2


def test_several_adapters_in_pytorchs_format_are_summed(base, ids, seed, tmp_path):
    folders = {}
    for number, settings in enumerate(({"r": 3}, {"r": 2, "lora_alpha": 5, "target_modules": ["c_attn", "q_proj"]})):
        folders[str(number)] = make_adapter(
            base, tmp_path / str(number), seed, {"target_modules": ["c_attn"]} | settings
        )
    adapters = with_adapters(base, folders)
    adapters.use({"0": 0.5, "1": -2})
    expected = our_logits(adapters.model, ids)
    to_archive(folders["1"])
    again = with_adapters(base, folders)
    again.use({"0": 0.5, "1": -2})
    np.testing.assert_array_equal(our_logits(again.model, ids), expected)
    both = combine({name: read_adapter(folder) for name, folder in folders.items()}, {"0": 0.5, "1": -2})
    assert both.config.r == 5 and both.config.target_modules == ["c_attn", "q_proj"]


def test_safetensors_comes_before_pytorchs_format(base, seed, tmp_path):
    folder = make_adapter(base, tmp_path / "a", seed, {"r": 3, "target_modules": ["c_attn"]})
    (folder / ARCHIVE).write_bytes(b"no archive")
    assert read_adapter(folder).config.r == 3
    (folder / WEIGHTS).unlink()
    assert_refused(lambda: read_adapter(folder), str(folder / ARCHIVE), "not a readable PyTorch file")
    (folder / ARCHIVE).unlink()
    assert_refused(lambda: read_adapter(folder), WEIGHTS, ARCHIVE, "missing")


class Runs:
    """Pickled, it makes a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


def test_an_adapter_that_is_a_program_is_not_run(base, seed, tmp_path):
    folder = make_adapter(base, tmp_path / "a", seed, {"r": 3, "target_modules": ["c_attn"]})
    (folder / WEIGHTS).unlink()
    code = {f"{PREFIX}.lora_A.weight": Runs(tmp_path / "marker")}
    for write in (
        lambda: torch.save(code, folder / ARCHIVE),
        lambda: (folder / ARCHIVE).write_bytes(pickle.dumps(code)),
    ):
        write()
        for use in (read_adapter, lambda path: with_adapter(base, path), inspect):
            assert_refused(lambda use=use: use(folder), str(folder / ARCHIVE))
    assert not (tmp_path / "marker").exists()


def test_a_small_archive_does_not_fill_the_memory(base, seed, tmp_path):
    folder = make_adapter(base, tmp_path / "a", seed, {"r": 3, "target_modules": ["c_attn"]})
    tensors, shared = safetensors.torch.load_file(folder / WEIGHTS), torch.ones(1 << 20)
    torch.save(tensors | {f"more.{number}": shared for number in range(1000)}, folder / ARCHIVE)
    (folder / WEIGHTS).unlink()
    assert (folder / ARCHIVE).stat().st_size < 5 << 20  # for tensors of 4 GB
    assert_refused(lambda: read_adapter(folder), str(folder / ARCHIVE), "bytes stand for tensors of 4,")


# keys as other versions and people write them, from those of today
OLDER = {
    "with the adapter's name, out of a model's state_dict": (
        {},
        lambda key: re.sub(r"(lora_[AB])\.", r"\1.default.", key),
    ),
    "with another name": ({}, lambda key: re.sub(r"(lora_[AB])\.", r"\1.mine.", key)),
    "of a model in DistributedDataParallel": ({"bias": "all"}, lambda key: f"module.{key}"),
    "of one in two wrappers, with the adapter's name": (
        {},
        lambda key: "_orig_mod.module." + re.sub(r"(lora_[AB])\.", r"\1.default.", key),
    ),
    "before base_layer, all biases": ({"bias": "all"}, lambda key: key.replace(".base_layer.bias", ".bias")),
    "before base_layer, own biases": ({"bias": "lora_only"}, lambda key: key.replace(".base_layer.bias", ".bias")),
}


@pytest.mark.parametrize("settings, rename", OLDER.values(), ids=OLDER)
@pytest.mark.parametrize("archive", [False, True], ids=["safetensors", "bin"])
def test_older_keys_mean_todays(base, ids, seed, tmp_path, settings, rename, archive):
    folder = make_adapter(base, tmp_path / "a", seed, {"r": 3, "target_modules": ["c_attn", "c_proj"]} | settings)
    expected = pefts_logits(base, folder, ids)
    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    renamed = {rename(key): tensor for key, tensor in tensors.items()}
    assert renamed.keys() != tensors.keys()
    safetensors.torch.save_file(renamed, folder / WEIGHTS)
    if archive:
        to_archive(folder)
    assert_logits(our_logits(with_adapter(base, folder), ids), expected, plain_logits(base, ids))


def test_what_stands_before_some_keys_alone_is_not_left_out(base, seed, tmp_path):
    folder = make_adapter(base, tmp_path / "a", seed, {"r": 3, "target_modules": ["c_attn"]})
    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    odd = {("module." if ".h.0." in key else "") + key: tensor for key, tensor in tensors.items()}
    safetensors.torch.save_file(odd, folder / WEIGHTS)
    assert_refused(lambda: with_adapter(base, folder), "does not fit", "2 unexpected (module.base_model.model.")


def test_an_adapter_of_peft_0_3_is_read(base, ids, seed, tmp_path):
    """Its config had these twelve fields, its only format was PyTorch's, its keys are today's."""
    folder = make_adapter(base, tmp_path / "a", seed, {"r": 3, "target_modules": ["c_attn"]})
    expected = pefts_logits(base, folder, ids)
    fields = ["base_model_name_or_path", "bias", "fan_in_fan_out", "inference_mode", "init_lora_weights", "lora_alpha"]
    fields += ["lora_dropout", "modules_to_save", "peft_type", "r", "target_modules", "task_type"]
    values = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({name: values[name] for name in fields}))
    to_archive(folder)
    assert_logits(our_logits(with_adapter(base, folder), ids), expected, plain_logits(base, ids))


def test_two_adapters_in_one_file_are_refused(base, seed, tmp_path):
    folder = make_adapter(base, tmp_path / "a", seed, {"r": 3, "target_modules": ["c_attn"]})
    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    both = {re.sub(r"(lora_[AB])\.", rf"\1.{name}.", key): t.clone() for name in "ab" for key, t in tensors.items()}
    safetensors.torch.save_file(both, folder / WEIGHTS)
    assert_refused(lambda: read_adapter(folder), "more than one adapter")


def test_merge_inspect_and_combine_use_such_adapters(base, ids, seed, tmp_path, monkeypatch, capsys):
    settings = {"r": 3, "target_modules": ["c_attn", "q_proj"], "modules_to_save": ["embed_tokens"]}
    folder = make_adapter(base, tmp_path / "a", seed, settings)
    expected = pefts_logits(base, folder, ids)
    to_archive(folder)

    def run(command, *arguments):
        run_lora(monkeypatch, command, "--adapter", folder, *arguments)

    run("inspect", "--model", base)
    assert "q_proj" in capsys.readouterr().out
    run("merge", "--model", base, "--output", tmp_path / "merged")
    merged = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "merged").eval()
    assert_logits(torch_logits(merged, ids), expected, plain_logits(base, ids))
    run("combine", "--weights", 1, "--output", tmp_path / "combined")
    assert_logits(our_logits(with_adapter(base, tmp_path / "combined"), ids), expected, plain_logits(base, ids))
    np.testing.assert_allclose(pefts_logits(base, tmp_path / "combined", ids), expected, rtol=0, atol=LOGITS)
