"""What a checkpoint's files mean, against transformers: which head it has, and sizes that they do not hold."""

import json
import tracemalloc

import numpy as np
import pytest
import safetensors.torch
import tiny
import torch
import transformers

from common.errors import UserError
from gpt2_jittor.checkpoint.stored import EMBEDDING, HEAD, body_shapes, open_model

KINDS = {
    "same": (True, lambda table: table.clone()),
    "different": (True, lambda table: table + torch.randn_like(table)),
    "one number different": (True, lambda table: torch.cat([table[:-1], table[-1:].nextafter(torch.tensor(9.0))])),
    "absent": (True, None),
    "alone": (False, lambda table: table.clone()),
}


def folder_of(folder, seed: int, tied: bool | None, kind: str, form: str):
    """A model whose config.json says `tied`, or nothing, and whose file holds embedding and head as `kind` says."""
    model = tiny.hf_model(seed)
    model.save_pretrained(folder)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    embedding, head = KINDS[kind]
    state.pop(HEAD)
    if head is not None:
        state[HEAD] = head(state[EMBEDDING])
    if not embedding:
        del state[EMBEDDING]
    if form == "safetensors":
        safetensors.torch.save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        (folder / "model.safetensors").unlink()
        if kind == "same":
            state[HEAD] = state[EMBEDDING]  # one storage, as torch saves a tied model
        torch.save(state, folder / "pytorch_model.bin")
    edit(folder, tie_word_embeddings=tied)
    return folder


def edit(folder, **values) -> None:
    """Writes entries into config.json; None takes one out."""
    config = json.loads((folder / "config.json").read_text()) | values
    config = {name: value for name, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("form", ["safetensors", "bin"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [True, None, False])
def test_the_head_is_the_one_that_transformers_reads(tmp_path, seed, tied, kind, form):
    folder = folder_of(tmp_path, seed, tied, kind, form)
    if tied is False and kind in ("absent", "alone"):  # transformers draws what is missing
        if kind == "alone":
            with pytest.raises(UserError, match=f"1 missing .{EMBEDDING}"):
                open_model(folder)
        else:
            assert HEAD not in open_model(folder).tensors  # a classifier can be made of it, a language model cannot
        return
    stored, theirs = open_model(folder), transformers.GPT2LMHeadModel.from_pretrained(folder)
    head = stored.tensors.get(HEAD, stored.tensors[EMBEDDING])
    np.testing.assert_array_equal(head, theirs.lm_head.weight.detach().numpy())
    np.testing.assert_array_equal(stored.tensors[EMBEDDING], theirs.transformer.wte.weight.detach().numpy())
    assert stored.config.tie_word_embeddings == (theirs.lm_head.weight is theirs.transformer.wte.weight)
    assert stored.config.tie_word_embeddings == (HEAD not in stored.tensors)


def test_heads_of_other_types_are_compared_by_their_numbers(tmp_path, seed):
    folder = folder_of(tmp_path, seed, True, "absent", "safetensors")
    state = safetensors.torch.load_file(folder / "model.safetensors")
    state[EMBEDDING] = state[EMBEDDING].half().float()
    for head, tied in ((state[EMBEDDING].half(), True), (state[EMBEDDING].bfloat16(), False)):
        safetensors.torch.save_file(state | {HEAD: head}, folder / "model.safetensors", metadata={"format": "pt"})
        assert open_model(folder).config.tie_word_embeddings == tied


def test_a_head_of_another_shape_is_refused(tmp_path, seed):
    folder = folder_of(tmp_path, seed, True, "absent", "safetensors")
    state = safetensors.torch.load_file(folder / "model.safetensors")
    safetensors.torch.save_file(state | {HEAD: state[EMBEDDING][1:].clone()}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"1 of another shape \(lm_head.weight \[300, 36\] instead of \[301, 36\]\)"):
        open_model(folder)


@pytest.mark.parametrize("settings", [{}, {"n_layer": 3, "n_inner": None}, {"n_embd": 24, "n_positions": 7}], ids=str)
def test_the_body_is_that_of_transformers(settings, seed, tmp_path):
    theirs = tiny.hf_model(seed, **settings)
    theirs.save_pretrained(tmp_path)
    expected = {name: tuple(value.shape) for name, value in theirs.state_dict().items() if name != HEAD}
    assert body_shapes(open_model(tmp_path).config) == expected


@pytest.mark.parametrize("count", [2, 3])
def test_a_classifier_that_names_no_classes_has_as_many_as_its_heads_rows(tmp_path, count):
    config = transformers.GPT2Config(**tiny.SIZES, num_labels=count)
    transformers.GPT2ForSequenceClassification(config).save_pretrained(tmp_path)
    edit(tmp_path, id2label=None, label2id=None, num_labels=None)
    assert open_model(tmp_path).config.labels == tuple(f"LABEL_{row}" for row in range(count))
    edit(tmp_path, num_labels=count + 1)
    with pytest.raises(UserError, match=f"score.weight .{count}, 36. instead of .{count + 1}, 36."):
        open_model(tmp_path)


HUGE = 10**9
ABSURD = [HUGE, 10**12, 10**18, 10**40, int("9" * 4300), 1e9, "9" * 10_000, [HUGE] * 10_000]


@pytest.mark.parametrize("value", ABSURD, ids=lambda value: f"{value}"[:20])
@pytest.mark.parametrize("name", ["n_layer", "n_embd", "n_inner", "n_head", "vocab_size", "n_positions", "num_labels"])
def test_a_size_that_the_files_do_not_hold_is_refused_before_anything_is_made(tmp_path_factory, name, value):
    folder = tmp_path_factory.getbasetemp() / "huge"
    if not folder.exists():
        config = transformers.GPT2Config(**tiny.SIZES, num_labels=3)
        transformers.GPT2ForSequenceClassification(config).save_pretrained(folder)
        edit(folder, id2label=None, label2id=None)
        (folder / "sound.json").write_text((folder / "config.json").read_text())
    sound = json.loads((folder / "sound.json").read_text())
    (folder / "config.json").write_text(json.dumps(sound | {name: value}))
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=f"config.json: .*{name}|config.json disagree; tensors") as caught:
            open_model(folder)
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000
