"""Weights that are damaged, missing or not what they seem: one line."""

import json
import struct

import pytest
import safetensors.torch
import torch

from common.errors import UserError
from gpt2_jittor.checkpoint.weights import open_tensors, read_tensors


def test_a_tensor_given_twice_is_refused(tmp_path):
    state = {"wte.weight": torch.ones(2), "transformer.wte.weight": torch.zeros(2)}
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="transformer.wte.weight is there twice"):
        open_tensors(tmp_path)


def entry(offsets, shape=(2,), dtype="F32"):
    return {"wte.weight": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


def packed(header, data=b"\0" * 8):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "content",
    {
        "empty": b"",
        "short": b"abc",
        "absurd header": b"\xff" * 8 + b"{}",
        "header beyond the end": struct.pack("<Q", 10_000) + b"{}",
        "no json": struct.pack("<Q", 4) + b"{{{{",
        "truncated": packed(entry([0, 8]))[:-1],
        "beyond the end": packed(entry([0, 80], (20,))),
        "size and shape disagree": packed(entry([0, 8], (3,))),
        "overlap": packed(entry([0, 8]) | {"b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, b"\0" * 12),
        "8-bit floats": packed(entry([0, 8], (8,), "F8_E4M3")),
    }.items(),
    ids=lambda case: case[0],
)
def test_a_damaged_safetensors_file_is_a_one_line_error(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content[1])
    with pytest.raises(UserError) as error:
        list(read_tensors(tmp_path))
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_folder_without_weights_says_what_to_put_there(tmp_path):
    with pytest.raises(UserError, match="holds no weights; put model.safetensors or pytorch_model.bin there"):
        list(read_tensors(tmp_path))


@pytest.mark.parametrize("part", ["../model.safetensors", "/etc/passwd", "model.bin", 3])
def test_an_index_cannot_name_files_elsewhere(tmp_path, part):
    index = {"weight_map": {"wte.weight": part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="index.json names no .safetensors files"):
        list(read_tensors(tmp_path))


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_git_lfs_pointer_is_recognised(tmp_path, name):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    with pytest.raises(UserError, match="Git LFS pointer"):
        list(read_tensors(tmp_path))
