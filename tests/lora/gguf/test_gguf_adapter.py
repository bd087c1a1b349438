"""`python -m lora export --adapter-only`: what llama.cpp adds to its base's numbers, beside PEFT's merge."""

import numpy as np
import peft
import pytest
import transformers
from adapters import assert_refused, make_adapter, run_lora
from gguf_files import expected_tensors, read, with_end_token

MERGED = 1e-5  # absolute: a few float32 roundings of weights around 1


ADAPTERS = {
    "one alpha": {"lora_alpha": 7, "target_modules": ["c_attn", "c_proj", "c_fc"]},
    "rsLoRA": {"lora_alpha": 7, "use_rslora": True, "target_modules": ["c_attn"]},
    "by name": {"rank_pattern": {"c_fc": 2}, "alpha_pattern": {"h.1.attn.c_attn": 11}, "target_modules": "all-linear"},
    "PiSSA": {"init_lora_weights": "pissa", "lora_alpha": 3, "target_modules": ["c_attn", "mlp.c_proj"]},
}


@pytest.mark.parametrize("settings", ADAPTERS.values(), ids=ADAPTERS)
def test_an_adapter_alone_adds_what_peft_adds(monkeypatch, base, tmp_path, out, seed, settings):
    adapter = make_adapter(base, tmp_path / "adapter", seed, {"r": 3, **settings})
    run_lora(monkeypatch, "export", "--adapter", adapter, "--adapter-only", "--output", out)
    fields, tensors, _ = read(out)
    assert fields["general.type"] == "adapter" and fields["adapter.type"] == "lora"
    plain = transformers.GPT2LMHeadModel.from_pretrained(base)
    before = expected_tensors(plain.state_dict())
    merged = peft.PeftModel.from_pretrained(plain, adapter).merge_and_unload().state_dict()
    for name, value in expected_tensors(merged).items():
        a, b = (tensors.pop(f"{name}.lora_{which}", None) for which in "ab")
        change = np.zeros_like(value) if a is None else fields["adapter.lora.alpha"] / len(a) * b @ a
        tolerance = MERGED + (3e-7 * condition(before[name]) if "pissa" in settings.values() and a is not None else 0)
        np.testing.assert_allclose(change, value - before[name], rtol=0, atol=tolerance, err_msg=name)
    assert not tensors


def condition(weight: np.ndarray, rank: int = 3) -> float:
    """By how much a matrix's `rank` largest singular vectors move for its rounding: PEFT finds them in float32."""
    values = np.linalg.svd(weight, compute_uv=False)
    return values[rank - 1] / (values[rank - 1] - values[rank])


def test_an_adapter_in_float16_is_the_same_rounded(monkeypatch, base, tmp_path, out, seed):
    adapter = make_adapter(base, tmp_path / "adapter", seed, {"r": 3, "target_modules": ["c_attn"]})
    once, again = tmp_path / "f32.gguf", tmp_path / "f16.gguf"
    for path in (once, again):
        run_lora(monkeypatch, "export", "--adapter", adapter, "--adapter-only", "--output", path, "--dtype", path.stem)
    expected, found = read(once)[1], read(again)[1]
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value.astype(np.float16))


UNSAID = {
    "use_dora": {"use_dora": True},
    "modules_to_save": {"modules_to_save": ["ln_f"]},
    "trainable_token_indices": {"trainable_token_indices": [5]},
    "bias all": {"bias": "all"},
    "lora_bias": {"lora_bias": True},
    "LoRA on transformer.wte": {"target_modules": ["wte", "c_attn"]},
}


@pytest.mark.parametrize("name", UNSAID)
def test_an_adapter_alone_with_more_than_pairs_of_projections_is_refused_by_name(
    monkeypatch, base, tmp_path, out, seed, name
):
    settings = {"r": 2, "target_modules": ["c_attn"], **UNSAID[name]}
    adapter = make_adapter(base, tmp_path / "adapter", seed, settings)
    call = ("export", "--adapter", adapter, "--adapter-only", "--output", out)
    assert_refused(lambda: run_lora(monkeypatch, *call), str(adapter), name, "--adapter-only")
    assert not out.parent.exists()


def test_an_adapter_alone_with_tokens_of_its_own_is_refused(monkeypatch, base, tmp_path, out, seed):
    adapter = make_adapter(base, tmp_path / "adapter", seed, {"r": 2, "target_modules": ["c_attn"]})
    with_end_token(adapter, base)
    call = ("export", "--adapter", adapter, "--adapter-only", "--output", out)
    assert_refused(lambda: run_lora(monkeypatch, *call), "added tokens")
