"""Weights against torch and transformers: what they save we read, what we write they load."""

import json
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
import transformers

from common.errors import UserError
from gpt2_jittor.checkpoint.config import GPT2Config
from gpt2_jittor.checkpoint.weights import canonical_names, check, open_tensors, read_tensors
from gpt2_jittor.checkpoint.write import write_model

SIZES = {"vocab_size": 99, "n_positions": 17, "n_embd": 32, "n_layer": 2, "n_head": 4}


def tiny(**settings):
    torch.manual_seed(7)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**SIZES, **settings)).eval()


@pytest.fixture(scope="module")
def model():
    return tiny()


@pytest.fixture(scope="module")
def weights(model):
    """Names and float32 values of the tied model, as transformers has them."""
    return {name: value.detach().numpy() for name, value in model.named_parameters()}


def assert_reads(folder, expected):
    found = dict(read_tensors(folder))
    found.pop("lm_head.weight", None)
    assert found.keys() == expected.keys()
    for name, array in found.items():
        assert array.dtype == np.float32 and array.flags.c_contiguous and array.flags.writeable, name
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


def test_a_folder_saved_by_transformers_is_read_exactly(model, weights, tmp_path):
    model.save_pretrained(tmp_path)
    assert_reads(tmp_path, weights)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells what is resident")
def test_a_checkpoint_that_has_been_read_is_not_kept_in_memory(tmp_path):
    def mapped_mb():
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssFile")) / 1024

    safetensors.numpy.save_file(
        {f"t{i}": np.ones(4_000_000, np.float32) for i in range(8)}, tmp_path / "model.safetensors"
    )
    before = mapped_mb()
    grown = [mapped_mb() - before for _ in read_tensors(tmp_path)]
    assert max(grown) < 40  # of 128 MB


def test_a_checkpoint_in_several_files_is_read_exactly(model, weights, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="30KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert_reads(tmp_path, weights)


def test_a_checkpoint_of_the_bare_body_gets_the_missing_prefix(model, weights, tmp_path):
    model.transformer.save_pretrained(tmp_path)
    assert_reads(tmp_path, weights)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "stream"])
def test_a_torch_file_is_read_exactly(model, weights, tmp_path, zipped):
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    assert_reads(tmp_path, weights)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "stream"])
def test_dtypes_views_and_parameters_of_a_torch_file_are_read_as_torch_reads_them(tmp_path, zipped):
    torch.manual_seed(3)
    shared = torch.randn(6, 10)
    state = OrderedDict(
        {
            "float32": torch.randn(3, 5),
            "float64": torch.randn(4).double(),
            "float16": torch.randn(5, 2).half(),
            "bfloat16": torch.randn(5, 3).bfloat16(),
            "bfloat16.transposed": torch.randn(5, 3).bfloat16().T,
            "parameter": torch.nn.Parameter(torch.randn(2, 2)),
            "shared.rows": shared[2:4],
            "shared.columns": shared[:, 3:7:2],
            "shared.transposed": shared.T,
            "scalar": torch.tensor(2.5),
            "empty": torch.empty(0, 4),
        }
    )
    torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    found = dict(read_tensors(tmp_path))
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], tensor.detach().float().numpy(), err_msg=name)


def test_a_torch_checkpoint_in_several_files_is_read_exactly(model, weights, tmp_path):
    state = model.state_dict()
    names = sorted(state)
    parts = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
    for part, chosen in parts.items():
        torch.save({name: state[name] for name in chosen}, tmp_path / part)
    places = {name: part for part, chosen in parts.items() for name in chosen}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    assert_reads(tmp_path, weights)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_float_of_a_safetensors_file_becomes_float32(tmp_path, dtype):
    tensor = torch.randn(7, 3).to(dtype)
    safetensors.torch.save_file({"wte.weight": tensor}, tmp_path / "model.safetensors")
    ((name, array),) = read_tensors(tmp_path)
    assert name == "transformer.wte.weight" and array.dtype == np.float32
    np.testing.assert_array_equal(array, tensor.float().numpy())


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_causal_masks_are_left_out_whatever_their_dtype(tmp_path, form):
    state = {
        "h.0.attn.bias": torch.ones(1, 1, 4, 4, dtype=torch.uint8).tril(),
        "h.2.attn.bias": torch.ones(1, 1, 5, 5, dtype=torch.bool).tril(),
        "h.3.attn.bias": torch.ones(1, 1, 4, 4, dtype=torch.bfloat16).tril(),
        "transformer.h.1.attn.bias": torch.ones(1, 1, 4, 4).tril(),
        "h.1.attn.masked_bias": torch.tensor(-1e4),
        "h.0.attn.masked_bias": torch.tensor(-1e4).half(),
        "h.0.attn.c_attn.bias": torch.ones(3),
    }
    if form == "bin":
        torch.save(state, tmp_path / "pytorch_model.bin")
    else:
        safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    assert [name for name, _ in read_tensors(tmp_path)] == ["transformer.h.0.attn.c_attn.bias"]


NO_MASKS = {
    "all to all": ("attn.bias", torch.ones(1, 1, 4, 4)),
    "forwards": ("attn.bias", torch.ones(1, 1, 4, 4, dtype=torch.uint8).triu()),
    "a window": ("attn.bias", torch.ones(1, 1, 4, 4).tril().triu(-2)),
    "a part of it": ("attn.bias", torch.ones(1, 1, 3, 4).tril()),
    "a weight": ("attn.bias", torch.ones(1, 1, 4, 4).tril() / 2),
    "a scalar": ("attn.bias", torch.tensor(1.0)),
    "hides nothing": ("attn.masked_bias", torch.tensor(0.0)),
    "hides several ways": ("attn.masked_bias", torch.tensor([-1e4, -1e4])),
}


@pytest.mark.parametrize("what", NO_MASKS)
@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_a_mask_that_is_not_causal_is_refused(tmp_path, form, what):
    kind, tensor = NO_MASKS[what]
    state = {f"h.1.{kind}": tensor, "h.0.attn.c_attn.bias": torch.ones(3)}
    if form == "bin":
        torch.save(state, tmp_path / "pytorch_model.bin")
    else:
        safetensors.torch.save_file(
            {key: value.contiguous() for key, value in state.items()}, tmp_path / "model.safetensors"
        )
    with pytest.raises(UserError, match=rf"h\.1\.{kind} is no causal mask"):
        open_tensors(tmp_path)


def test_integers_among_the_weights_are_refused_by_name(tmp_path):
    safetensors.torch.save_file({"wte.weight": torch.ones(2, dtype=torch.int8)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="transformer.wte.weight is stored as int8"):
        list(read_tensors(tmp_path))


def test_safetensors_are_preferred_to_pickles(model, weights, tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"not even a file of torch")
    model.save_pretrained(tmp_path)
    assert_reads(tmp_path, weights)


def test_names_get_their_prefix_and_foreign_names_stay():
    keys = ["wte.weight", "transformer.ln_f.bias", "lm_head.weight", "score.weight", "classifier.h.0.bias"]
    names = ["transformer.wte.weight", "transformer.ln_f.bias", "lm_head.weight", "score.weight", "classifier.h.0.bias"]
    assert canonical_names(keys) == dict(zip(keys, names, strict=True))


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "model.", "module._orig_mod.", "state_dict."])
@pytest.mark.parametrize("part", ["whole", "body"])
@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_what_was_saved_inside_of_a_wrapper_is_read(model, weights, tmp_path, wrapper, part, form):
    state = (model if part == "whole" else model.transformer).state_dict()
    state.pop("lm_head.weight", None)
    state = {wrapper + key: value for key, value in state.items()}
    if form == "bin":
        torch.save(state, tmp_path / "pytorch_model.bin")
    else:
        safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    assert_reads(tmp_path, weights)


def test_a_wrapper_that_not_every_key_has_is_none():
    keys = ["module.wte.weight", "wpe.weight"]
    assert canonical_names(keys) == {"module.wte.weight": "module.wte.weight", "wpe.weight": "transformer.wpe.weight"}


def test_a_tensor_in_two_files_is_refused(model, tmp_path):
    state = {name: value.contiguous() for name, value in model.transformer.state_dict().items()}
    index = {"weight_map": dict.fromkeys(state, "model-1.safetensors") | {"wpe.weight": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    safetensors.torch.save_file(state, tmp_path / "model-1.safetensors")
    safetensors.torch.save_file({"wpe.weight": state["wpe.weight"] + 1}, tmp_path / "model-2.safetensors")
    with pytest.raises(UserError, match="model-2.safetensors: tensor transformer.wpe.weight is there twice"):
        open_tensors(tmp_path)


def test_every_mismatch_is_in_one_line():
    expected = {"a": (2,), "b": (3, 4), "c": (5,)} | {f"m{i}": (1,) for i in range(30)}
    found = {"a": (2,), "b": (4, 3), "score.weight": (1,), "lm_head.weight": (9, 9)}
    with pytest.raises(UserError) as error:
        check(expected, found, "some/folder")
    text = str(error.value)
    assert text.startswith("some/folder: ") and "\n" not in text
    assert "31 missing (c, m0, " in text and "…" in text and "m20" not in text
    assert "2 unexpected (score.weight, lm_head.weight)" in text
    assert "1 of another shape (b [4, 3] instead of [3, 4])" in text


def test_a_checkpoint_is_checked_before_its_first_tensor_is_read(model, weights, tmp_path):
    model.save_pretrained(tmp_path)
    shapes = {name: array.shape for name, array in weights.items()}
    assert [name for name, _ in read_tensors(tmp_path, shapes)] == list(shapes)
    with pytest.raises(UserError, match="1 missing .*another.weight"):
        next(read_tensors(tmp_path, shapes | {"another.weight": (1,)}))


@pytest.mark.parametrize(
    "settings", [{}, {"tie_word_embeddings": False}, {"n_inner": 48, "activation_function": "relu"}]
)
def test_transformers_loads_what_we_write_and_computes_the_same(tmp_path, settings):
    theirs = tiny(**settings)
    arrays = {name: value.numpy() for name, value in theirs.state_dict().items()}
    write_model(tmp_path, GPT2Config(**SIZES, **settings), arrays)
    again, report = transformers.GPT2LMHeadModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    for name, value in again.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name]), name
    ids = torch.randint(0, 99, (2, 11))
    with torch.no_grad():
        assert torch.equal(again.eval()(ids).logits, theirs(ids).logits)
    assert again.generation_config.eos_token_id == 50256


def test_what_we_write_we_read(weights, tmp_path):
    write_model(tmp_path, GPT2Config(**SIZES), weights)
    assert_reads(tmp_path, weights)
    assert GPT2Config.from_pretrained(tmp_path) == GPT2Config(**SIZES)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
    ]


def test_a_head_that_a_configuration_does_not_speak_of_is_not_left_out(weights, tmp_path):
    tied = weights | {"lm_head.weight": weights["transformer.wte.weight"]}
    write_model(tmp_path, GPT2Config(**SIZES), tied)
    assert "lm_head.weight" not in open_tensors(tmp_path)
    with pytest.raises(ValueError, match="lm_head.weight"):
        write_model(tmp_path, GPT2Config(**SIZES), tied | {"lm_head.weight": tied["lm_head.weight"] + 1})


def test_half_precision_is_written_on_request(weights, tmp_path):
    write_model(tmp_path, GPT2Config(**SIZES), weights, dtype="float16")
    assert_reads(tmp_path, {name: array.astype(np.float16).astype(np.float32) for name, array in weights.items()})
    assert transformers.GPT2LMHeadModel.from_pretrained(tmp_path).dtype == torch.float16


def test_a_missing_part_is_named(model, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="30KB")
    gone = sorted(tmp_path.glob("model-*.safetensors"))[0]
    gone.unlink()
    with pytest.raises(UserError, match=f"{gone.name} is missing"):
        list(read_tensors(tmp_path))
