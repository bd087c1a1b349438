"""`python -m lora export`: GGUF files beside the folders that they were made of, and what is refused."""

import json

import numpy as np
import peft
import pytest
import torch
import transformers
from adapters import SETTINGS, assert_refused, make_adapter, run_lora
from commands import assert_one_line_error, command
from gguf_files import NANO, ROWS, expected_tensors, gpt2_folder, read, with_end_token

from gpt2_jittor.checkpoint.tokenizer import load_tokenizer, save_tokenizer

MERGED = 1e-5  # absolute: a few float32 roundings of weights around 1
EXACT = 0.0


def state_of(folder, tied: bool = True) -> dict:
    state = transformers.GPT2LMHeadModel.from_pretrained(folder).state_dict()
    return {name: value for name, value in state.items() if not (tied and name == "lm_head.weight")}


def assert_same(found: dict, expected: dict, tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("tied", [True, False])
def test_a_models_tensors_are_its_folders_and_a_tied_head_is_left_out(monkeypatch, tmp_path, out, seed, tied):
    folder = gpt2_folder(tmp_path / "model", seed, tie_word_embeddings=tied, n_inner=58)
    run_lora(monkeypatch, "export", "--model", folder, "--output", out)
    _, tensors, types = read(out)
    assert_same(tensors, expected_tensors(state_of(folder, tied)), EXACT)
    assert set(types.values()) == {"F32"} and ("output.weight" in tensors) is not tied


def test_float16_rounds_matrices_alone(monkeypatch, base, out):
    run_lora(monkeypatch, "export", "--model", base, "--output", out, "--dtype", "f16")
    fields, tensors, types = read(out)
    expected = expected_tensors(state_of(base))
    for name, value in expected.items():
        kept = value.ndim == 1 or name == "position_embd.weight"
        assert types[name] == ("F32" if kept else "F16")
        np.testing.assert_array_equal(tensors[name], value if kept else value.astype(np.float16), err_msg=name)
    assert fields["general.file_type"] == 1  # llama.h: LLAMA_FTYPE_MOSTLY_F16


def test_q8_0_rounds_to_a_254th_of_a_blocks_range(monkeypatch, tmp_path, out, seed):
    folder = gpt2_folder(tmp_path / "model", seed, n_embd=64, n_head=2, n_inner=72)
    run_lora(monkeypatch, "export", "--model", folder, "--output", out, "--dtype", "q8_0")
    fields, tensors, types = read(out)
    expected = expected_tensors(state_of(folder))
    assert types["token_embd.weight"] == types["blk.1.attn_qkv.weight"] == types["blk.0.ffn_up.weight"] == "Q8_0"
    assert types["blk.0.ffn_down.weight"] == "F16"  # rows of 72 are no blocks of 32
    for name in [name for name, kind in types.items() if kind == "Q8_0"]:
        blocks = expected[name].reshape(-1, 32)
        # a block's scale is its largest value / 127, in float16: 11 bits
        bound = np.abs(blocks).max(1, keepdims=True) * (0.5 / 127 + 2**-11)
        assert (np.abs(tensors[name].reshape(-1, 32) - blocks) <= bound).all(), name
        assert (tensors[name] != expected[name]).any()
    assert fields["general.file_type"] == 7  # llama.h: LLAMA_FTYPE_MOSTLY_Q8_0


def test_the_fields_are_those_that_llama_cpp_reads(monkeypatch, tmp_path, out, seed):
    folder = gpt2_folder(tmp_path / "model", seed, layer_norm_epsilon=3e-5, n_inner=58)
    run_lora(monkeypatch, "export", "--model", folder, "--output", out)
    fields, _, _ = read(out)
    expected = {
        "general.architecture": "gpt2",
        "general.type": "model",
        "general.name": "model",
        "general.file_type": 0,
        "gpt2.context_length": 101,
        "gpt2.embedding_length": 36,
        "gpt2.feed_forward_length": 58,
        "gpt2.block_count": 2,
        "gpt2.attention.head_count": 3,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
    }
    assert {name: fields.get(name) for name in expected} == expected
    assert fields["gpt2.attention.layer_norm_epsilon"] == pytest.approx(3e-5)
    assert "tokenizer.chat_template" not in fields
    vocabulary = json.loads((NANO / "vocab.json").read_text())
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    assert tokens == [*sorted(vocabulary, key=vocabulary.get), *(f"[PAD{n}]" for n in range(len(vocabulary), ROWS))]
    # llama.h: 1 is normal, 3 control, 5 unused
    assert types == [3] + [1] * (len(vocabulary) - 1) + [5] * (ROWS - len(vocabulary))
    merges = (NANO / "merges.txt").read_text().splitlines()
    assert fields["tokenizer.ggml.merges"] == [line for line in merges if line and not line.startswith("#version")]


def test_added_tokens_the_chats_form_and_several_ends_are_in_the_file(monkeypatch, base, out):
    tokenizer = load_tokenizer(base)
    tokenizer.add_tokens(["<END>"], special_tokens=True)
    tokenizer.add_tokens(["plain words"])
    tokenizer.eos_token = "<END>"
    tokenizer.chat_template = "{{ messages }} ü"
    save_tokenizer(tokenizer, base)
    (base / "generation_config.json").write_text('{"eos_token_id": [0, 8192]}')
    run_lora(monkeypatch, "export", "--model", base, "--output", out)
    fields, _, _ = read(out)
    assert fields["tokenizer.ggml.tokens"][8192:8195] == ["<END>", "plain words", "[PAD8194]"]
    assert fields["tokenizer.ggml.token_type"][8192:8195] == [3, 4, 5]  # control, user defined, unused
    assert fields["tokenizer.ggml.eos_token_id"] == 8192 and fields["tokenizer.ggml.eot_token_id"] == 0
    assert fields["tokenizer.chat_template"] == "{{ messages }} ü"


def test_a_run_that_learnt_to_chat_says_how_even_without_a_template(monkeypatch, base, tmp_path, out, seed):
    adapter = make_adapter(base, tmp_path / "run", seed, {"r": 2, "target_modules": ["c_attn"]})
    (adapter / "arguments.yaml").write_text("task: dailydialog\n")
    run_lora(monkeypatch, "export", "--adapter", adapter, "--output", out)
    template = read(out)[0]["tokenizer.chat_template"]
    tokenizer = load_tokenizer(base)
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    rendered = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False)
    assert rendered == "Hi<|endoftext|>Ho<|endoftext|>"


MERGES = {
    "DoRA, a layer trained whole": {"use_dora": True, "target_modules": ["c_attn"], "modules_to_save": ["ln_f"]},
    "trained tokens": {"trainable_token_indices": [5, 8192], "target_modules": ["c_proj"]},
    "LoRA on the embedding's twin, the head": {"target_modules": ["lm_head", "c_fc"]},
}


@pytest.mark.parametrize("settings", MERGES.values(), ids=MERGES)
def test_a_merged_files_tensors_are_pefts(monkeypatch, base, tmp_path, out, seed, settings):
    adapter = make_adapter(base, tmp_path / "adapter", seed, {"r": 3, "lora_alpha": 5, **settings})
    with_end_token(adapter, base)
    run_lora(monkeypatch, "export", "--adapter", adapter, "--output", out)
    plain = transformers.GPT2LMHeadModel.from_pretrained(base)
    untied = "lm_head" in settings["target_modules"]
    if untied:  # PEFT's merge of a tied head would change the embedding too
        plain.lm_head.weight = torch.nn.Parameter(plain.lm_head.weight.detach().clone())
    merged = peft.PeftModel.from_pretrained(plain, adapter).merge_and_unload().state_dict()
    expected = {name: value for name, value in merged.items() if untied or name != "lm_head.weight"}
    assert_same(read(out)[1], expected_tensors(expected), MERGED)


def test_a_merged_file_has_rows_for_tokens_that_the_base_has_no_room_for(monkeypatch, tmp_path, out, seed):
    base = gpt2_folder(tmp_path / "base", seed, vocab_size=8192)
    adapter = make_adapter(base, tmp_path / "adapter", seed, {"r": 2, "target_modules": ["c_attn"]})
    with_end_token(adapter, base)
    run_lora(monkeypatch, "export", "--adapter", adapter, "--output", out)
    fields, tensors, _ = read(out)
    assert fields["tokenizer.ggml.tokens"][8192:] == ["<END>"] and fields["tokenizer.ggml.eos_token_id"] == 8192
    assert tensors["token_embd.weight"].shape == (8193, 36)
    before = expected_tensors(state_of(base))["token_embd.weight"]
    np.testing.assert_array_equal(tensors["token_embd.weight"][:8192], before)


ELSEWHERE = {
    "activation_function relu": {"activation_function": "relu"},
    "activation_function gelu": {"activation_function": "gelu"},
    "scale_attn_by_inverse_layer_idx": {"scale_attn_by_inverse_layer_idx": True},
    "scale_attn_weights": {"scale_attn_weights": False},
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_model_that_llama_cpp_computes_otherwise_is_refused_by_name(monkeypatch, base, out, name):
    edit_config(base, **ELSEWHERE[name])
    call = ("export", "--model", base, "--output", out)
    assert_refused(lambda: run_lora(monkeypatch, *call), str(base / "config.json"), name)


def test_more_ends_than_a_file_has_room_for_are_refused(monkeypatch, base, out):
    (base / "generation_config.json").write_text('{"eos_token_id": [0, 1, 2, 3]}')
    call = ("export", "--model", base, "--output", out)
    assert_refused(lambda: run_lora(monkeypatch, *call), str(base), "3 tokens", "not 4")


def test_a_classifier_and_another_tokenizer_are_refused(monkeypatch, base, out):
    call = ("export", "--model", base, "--output", out)
    content = json.loads(load_tokenizer(base).backend_tokenizer.to_str())
    content["pre_tokenizer"]["add_prefix_space"] = True
    (base / "tokenizer.json").write_text(json.dumps(content))
    assert_refused(lambda: run_lora(monkeypatch, *call), "tokenizer", "llama.cpp")
    edit_config(base, architectures=["GPT2ForSequenceClassification"])
    assert_refused(lambda: run_lora(monkeypatch, *call), "classifier")


def test_numbers_too_large_for_float16_leave_no_file(monkeypatch, tmp_path, out, seed):
    folder = gpt2_folder(tmp_path / "model", seed)
    model = transformers.GPT2LMHeadModel.from_pretrained(folder)
    model.transformer.h[1].mlp.c_fc.weight.data[3, 4] = 7e4
    model.save_pretrained(folder)
    call = ("export", "--model", folder, "--output", out, "--dtype", "f16")
    assert_refused(lambda: run_lora(monkeypatch, *call), str(folder), "blk.1.ffn_up.weight", "f32")
    assert list(out.parent.iterdir()) == []


WRONG = {
    "nothing to export": ((), ("--model", "--adapter")),
    "adapter-only without one": (("--model", "nano", "--adapter-only"), ("--adapter-only", "--adapter")),
    "q8_0 for an adapter": (("--adapter", "x", "--adapter-only", "--dtype", "q8_0"), ("q8_0", "f32 or f16")),
    "no such adapter": (("--adapter", "nowhere/x"), ("nowhere/x", SETTINGS)),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_users_mistake_is_one_line(tmp_path, case):
    options, words = WRONG[case]
    result = command("-m", "lora", "export", "--output", tmp_path / "x.gguf", *options)
    assert_one_line_error(result, *words)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_no_output(monkeypatch, tmp_path):
    call = ("export", "--model", "nano", "--output", tmp_path)
    assert_refused(lambda: run_lora(monkeypatch, *call), "--output", "is a folder")


def edit_config(folder, **entries) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))
