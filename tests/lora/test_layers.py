"""Layers of an adapter: what they answer to a model, and that they stand beside a base of any precision."""

import numpy as np
import pytest
import tiny
import torch

import lora
from common.errors import UserError
from gpt2_jittor import GPT2Config, GPT2LMHeadModel
from gpt2_jittor.model.layers import Conv1D
from gpt2_jittor.model.quantized import QuantizedLinear, quantize
from gpt2_jittor.ops.activation import gelu_new
from gpt2_jittor.ops.matmul import products_in
from gpt2_jittor.runtime.backend import jt
from lora.linear import LoraLinear

FLOAT32 = 1e-5  # relative to the largest: float32 sums of the same terms in another order
CONFIG = lora.LoraConfig(r=3, lora_alpha=7, target_modules=["c_attn"], init_lora_weights=False)
GIVEN = CONFIG.for_path("transformer.h.0.attn.c_attn")
MATRICES = {"lora_A.weight", "lora_B.weight"}
ROWS = "token_adapter.trainable_tokens_delta"


def projection(rng, inputs=36, outputs=24) -> Conv1D:
    layer = Conv1D(inputs, outputs)
    layer.weight = jt.array(rng.standard_normal((inputs, outputs), dtype=np.float32))
    layer.bias = jt.array(rng.standard_normal(outputs, dtype=np.float32))
    return layer


def wrapped(base, rng) -> LoraLinear:
    layer = LoraLinear.from_base(base, GIVEN, rng)
    layer.is_train = False
    return layer


@pytest.mark.parametrize("activation", [None, gelu_new])
@pytest.mark.parametrize("kind", ["float32", "int8", "bf16"])
def test_its_output_is_its_bases_and_the_matrices_product(rng, kind, activation):
    base = projection(rng)
    base = base if kind == "float32" else QuantizedLinear(base, kind)
    layer = wrapped(base, rng)
    x = jt.array(rng.standard_normal((2, 5, 36), dtype=np.float32))
    z = x if activation is None else activation(x)
    a, b = layer.lora_A.weight.numpy(), layer.lora_B.weight.numpy()
    expected = base(x, activation).numpy() + 7 / 3 * (z.numpy() @ a.T @ b.T)
    assert np.abs(layer(x, activation).numpy() - expected).max() <= FLOAT32 * np.abs(expected).max()


def test_it_shares_its_bases_parameters_and_tells_its_own_apart(rng):
    base = projection(rng)
    layer = wrapped(base, rng)
    assert layer.weight is base.weight and layer.bias is base.bias
    assert set(layer.adapter_parameters()) == MATRICES and not base.adapter_parameters()
    assert layer.adapter_parameters()["lora_A.weight"] is layer.lora_A.weight


def test_merging_moves_its_bases_weight_by_delta_and_leaves_a_plain_layer(rng):
    base = projection(rng)
    before, layer = base.weight.numpy(), wrapped(base, rng)
    delta = 7 / 3 * (layer.lora_B.weight.numpy() @ layer.lora_A.weight.numpy()).T
    assert np.abs(layer.delta().numpy() - delta).max() <= FLOAT32 * np.abs(delta).max()
    assert not layer.is_plain
    for _ in range(2):  # the second does nothing
        layer.merge()
    assert layer.is_plain
    np.testing.assert_allclose(base.weight.numpy(), before + delta, atol=FLOAT32 * np.abs(before + delta).max())
    for _ in range(2):
        layer.unmerge()
    assert not layer.is_plain
    np.testing.assert_allclose(base.weight.numpy(), before, atol=FLOAT32 * np.abs(before + delta).max())


def test_a_parameters_name_is_the_same_whatever_wraps_its_layer(seed):
    model = GPT2LMHeadModel.from_pretrained("nano")
    plain = dict(model.named_parameters())
    assert model.places() == {name: name for name in plain} and model.is_plain
    config = lora.LoraConfig(r=2, target_modules=["c_attn"], trainable_token_indices=[5], bias="all")
    lora.inject(model, config, seed)
    names = dict(model.named_parameters())
    assert {name: names[name] for name in plain} == plain
    layers = {path for path in model.layers() if path.endswith("c_attn")}
    added = {f"{path}.{name}" for path in layers for name in MATRICES} | {f"transformer.wte.{ROWS}"}
    assert set(names) - set(plain) == set(model.adapter_parameters()) == added
    assert all(model.parameter(name) is value for name, value in names.items())
    within = {name: place for name, place in model.places().items() if place != name}
    kinds = {f"{path}.{kind}" for path in layers for kind in ("weight", "bias")}
    assert set(within) == kinds | {"transformer.wte.weight"}
    assert within["transformer.h.0.attn.c_attn.bias"] == "transformer.h.0.attn.c_attn.base_layer.bias"


@pytest.mark.parametrize("weights", ["int8", "bf16"])
def test_what_needs_float32_weights_is_refused_of_others(tmp_path, seed, weights):
    tiny.hf_model(seed).save_pretrained(tmp_path)
    model = GPT2LMHeadModel.from_pretrained(tmp_path)
    quantize(model, weights)
    needs = {
        "quantise it": lambda: quantize(model, weights),
        "resize the vocabulary": lambda: model.resize_token_embeddings(310),
        "merge the adapter": lambda: lora.merge(model),
    }
    for doing, call in needs.items():
        with pytest.raises(UserError, match=f"{weights}, which is for use only: {doing} before that"):
            call()


HEADS = {
    "the embedding": {"target_modules": ["c_attn"]},
    "trained whole": {"target_modules": ["c_attn"], "modules_to_save": ["lm_head"]},
    "with trained rows": {"target_modules": ["c_attn"], "trainable_token_indices": [3, 7, 200]},
    "with LoRA": {"target_modules": ["lm_head"], "init_lora_weights": False},
}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("head", HEADS)
def test_every_head_smooths_its_labels_as_torch_does(rng, head, precision):
    model = lora.inject(GPT2LMHeadModel(GPT2Config(**tiny.SIZES)), lora.LoraConfig(r=3, **HEADS[head]), seed=1)
    for _, parameter in lora.trainable(model):
        parameter.assign(0.3 * rng.standard_normal(parameter.shape, dtype=np.float32))
    model.to_precision(precision)
    model.label_smoothing = 0.3
    hidden = jt.array(rng.standard_normal((9, 36), dtype=np.float32))
    targets = np.array([3, 7, 200, *rng.integers(0, 301, 6)], np.int32)
    with products_in(precision):
        logits = torch.tensor(model.lm_head(hidden).numpy()).double()
        found = model.lm_head.losses(hidden, jt.array(targets), model.train().smoothing).numpy()
    expected = torch.nn.functional.cross_entropy(
        logits, torch.tensor(targets).long(), reduction="none", label_smoothing=0.3
    )
    # a logit of some units has 8 bits in bfloat16
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-5 if precision == "fp32" else 0.1)
