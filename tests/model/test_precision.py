"""Models in float16 and bfloat16, on the CPU as CUDA computes them, and by the CPU's own kernels: beside float32 and
beside torch."""

import contextlib

import numpy as np
import pytest
import tiny
import torch
from halves import EPSILON, HALVES, TORCH, relative

import lora
from common.errors import UserError
from gpt2_jittor import GPT2ForSequenceClassification, GPT2LMHeadModel
from gpt2_jittor.model.cache import KVCache
from gpt2_jittor.model.next_token import last_logits
from gpt2_jittor.ops import fused
from gpt2_jittor.runtime.backend import jt

# The model here has two blocks of 6 products behind each other, and the head: a gradient has passed 13 of them there
# and as many back, of whose errors many cancel as well. The loss is a mean of many positions, which leaves about one.
DEPTH = 13
SCALE = 2.0**10
LORA = {"r": 3, "target_modules": ["c_attn", "c_proj", "c_fc"], "init_lora_weights": False, "lora_dropout": 0.0}


# both types compile operators of their own, a minute each: where nothing depends on the type, one is enough
ONE = pytest.mark.parametrize(("half", "way"), [("bf16", "composed"), ("bf16", "kernels")], indirect=["way"])


@pytest.fixture(params=HALVES)
def half(request):
    return request.param


@pytest.fixture(autouse=True)
def way(request):
    """As CUDA does, or by the CPU's kernels (`half_products.h`)."""
    composed = getattr(request, "param", "composed") == "composed"
    with fused.composed_only() if composed else contextlib.nullcontext():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.model_folder(tmp_path_factory.mktemp("precision") / "model", seed=1)


def adapted(folder, seed, name):
    model = lora.inject(GPT2LMHeadModel.from_pretrained(folder), lora.LoraConfig(**LORA), seed)
    return model.to_precision(name)


def loss_and_gradients(model, batch) -> tuple[float, list[np.ndarray]]:
    ids, labels, mask = batch
    loss = model.loss(ids, labels, mask)
    # scaled as in training, or the smallest would be lost in float16; a power of two changes nothing else
    gradients = jt.grad(loss * SCALE, [value for _, value in lora.trainable(model)])
    return loss.item(), [gradient.numpy() / SCALE for gradient in gradients]


def torchs_loss_and_gradients(model, folder, directory, batch, dtype):
    """The same model in torch, its frozen matrices rounded as ours; with dtype None in float32."""
    import peft
    import transformers

    lora.save_adapter(model, directory)
    base = transformers.GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager")
    if dtype is not None:
        for parameter in base.parameters():
            if parameter.ndim == 2:
                parameter.data = parameter.data.to(dtype).float()
    theirs = peft.PeftModel.from_pretrained(base, directory, is_trainable=True)
    ids, labels, mask = (torch.tensor(part) for part in batch)
    with torch.autocast("cpu", dtype) if dtype else contextlib.nullcontext():
        output = theirs(input_ids=ids, labels=labels, attention_mask=mask)
    output.loss.float().backward()
    gradients = {name: value.grad.numpy() for name, value in theirs.named_parameters() if value.requires_grad}
    ordered = [name.replace(".weight", ".default.weight") for name, _ in lora.trainable(model)]
    return output.loss.item(), [gradients[f"base_model.model.{name}"] for name in ordered]


@pytest.mark.parametrize(
    ("half", "way"), [*((half, "composed") for half in HALVES), ("bf16", "kernels")], indirect=["way"]
)
def test_loss_and_gradients_stay_within_what_the_half_type_allows(folder, seed, half):
    batch = tiny.padded_batch(seed)
    expected, exact = loss_and_gradients(adapted(folder, seed, "fp32"), batch)
    found, gradients = loss_and_gradients(adapted(folder, seed, half), batch)
    assert 0 < abs(found - expected) < EPSILON[half] * expected
    for gradient, right in zip(gradients, exact, strict=True):
        assert 0 < relative(gradient, right) < DEPTH * EPSILON[half]


@ONE
def test_bf16_is_as_close_to_float32_as_torchs_autocast(folder, tmp_path, seed, half):
    batch = tiny.padded_batch(seed)
    model = adapted(folder, seed, half)
    found, gradients = loss_and_gradients(model, batch)
    theirs, torchs = torchs_loss_and_gradients(model, folder, tmp_path, batch, torch.bfloat16)
    exact, right = torchs_loss_and_gradients(model, folder, tmp_path, batch, None)
    assert abs(found - theirs) < EPSILON[half] * exact
    for ours, other in zip(gradients, torchs, strict=True):
        assert relative(ours, other) < DEPTH * EPSILON[half]
    errors = [np.mean([relative(x, y) for x, y in zip(some, right, strict=True)]) for some in (gradients, torchs)]
    assert errors[0] < 1.5 * errors[1]  # torch's softmax is in bfloat16 besides


def test_fp16_is_closer_than_bf16(folder, seed):
    batch = tiny.padded_batch(seed)
    exact, fp16, bf16 = (loss_and_gradients(adapted(folder, seed, name), batch)[1] for name in ("fp32", "fp16", "bf16"))
    errors = [[relative(x, y) for x, y in zip(some, exact, strict=True)] for some in (fp16, bf16)]
    assert np.mean(errors[0]) < np.mean(errors[1]) / 4  # three bits are a factor of 8


def test_frozen_matrices_are_kept_in_half_their_memory_and_the_rest_in_float32(folder, half):
    model = adapted(folder, 0, half)
    dtype = str(TORCH[half]).removeprefix("torch.")
    for name, value in model.named_parameters():
        frozen_matrix = value.ndim == 2 and ".lora_" not in name
        assert value.dtype == (dtype if frozen_matrix else "float32"), name
        assert value.is_stop_grad() == (".lora_" not in name), name


@ONE
def test_full_tuning_keeps_float32_weights_and_computes_with_halves_of_them(folder, seed, half):
    batch = tiny.padded_batch(seed)
    full, model = GPT2LMHeadModel.from_pretrained(folder), GPT2LMHeadModel.from_pretrained(folder).to_precision(half)
    assert {str(value.dtype) for value in model.parameters()} == {"float32"}
    exact, found = (loss_and_gradients(each, batch) for each in (full, model))
    assert 0 < abs(found[0] - exact[0]) < EPSILON[half] * exact[0]
    whole = [np.concatenate([gradient.ravel() for gradient in each[1]]) for each in (found, exact)]
    assert 0 < relative(*whole) < DEPTH * EPSILON[half]
    assert all(gradient.dtype == np.float32 for gradient in found[1])


@ONE
def test_tokens_are_decoded_with_a_cache_in_the_half_type(folder, seed, half):
    model = GPT2LMHeadModel.from_pretrained(folder).freeze().to_precision(half)
    ids = tiny.random_ids(seed)
    whole = model(ids).numpy()
    cache = KVCache()
    last_logits(model, ids[:, :10], cache)
    for position in range(10, ids.shape[1]):
        found = last_logits(model, ids[:, position : position + 1], cache)
    # the same numbers are rounded in the same places; sums of other lengths may tip a few over
    assert relative(found, whole[:, -1]) < 3 * EPSILON[half]
    assert {str(x.dtype) for kept in cache.layers.values() for x in kept} == {str(TORCH[half]).removeprefix("torch.")}


@ONE
def test_a_classifier_computes_in_the_half_type(folder, seed, half):
    model = GPT2ForSequenceClassification.from_pretrained(folder, labels=("a", "b", "c"), seed=1)
    ids = tiny.random_ids(seed)
    exact = model(ids).numpy()
    found = model.freeze().to_precision(half)(ids).numpy()
    assert found.dtype == np.float32
    assert 0 < relative(found, exact) < DEPTH * EPSILON[half]


@ONE
def test_trained_tokens_stay_float32(folder, seed, half):
    model = GPT2LMHeadModel.from_pretrained(folder)
    lora.inject(model, lora.LoraConfig(**LORA, trainable_token_indices=[3, 7], modules_to_save=None))
    batch = tiny.padded_batch(seed)
    expected, exact = loss_and_gradients(model, batch)
    found, gradients = loss_and_gradients(model.to_precision(half), batch)
    assert model.transformer.wte.rows.dtype == "float32"
    assert abs(found - expected) < EPSILON[half] * expected
    for gradient, right in zip(gradients, exact, strict=True):
        assert relative(gradient, right) < DEPTH * EPSILON[half]


@pytest.mark.parametrize("act", ["merge", "unmerge", "save", "resize"])
def test_what_needs_the_whole_weights_is_refused_once_they_are_halves(folder, tmp_path, act, half):
    model = adapted(folder, 0, "fp32")
    if act in ("unmerge", "save"):
        lora.merge(model)
    model.to_precision(half)
    with pytest.raises(UserError, match=f"kept in {half} now: .* before that"):
        {
            "merge": lambda: lora.merge(model),
            "unmerge": lambda: lora.unmerge(model),
            "save": lambda: model.save_pretrained(tmp_path),
            "resize": lambda: model.resize_token_embeddings(310),
        }[act]()
    assert not any(tmp_path.iterdir())


def test_a_saved_adapter_is_float32_to_the_bit(folder, tmp_path, half):
    model = adapted(folder, 3, half)
    lora.save_adapter(model, tmp_path)
    again = lora.inject(GPT2LMHeadModel.from_pretrained(folder), lora.LoraConfig(**LORA), seed=9)
    lora.load_adapter(again, tmp_path)
    for name, value in lora.trainable(model):
        assert again.parameter(name).dtype == "float32"
        np.testing.assert_array_equal(again.parameter(name).numpy(), value.numpy())


@ONE
def test_an_adapter_is_loaded_onto_halves(folder, tmp_path, seed, half):
    ids = tiny.random_ids(seed)
    model = adapted(folder, 3, half)
    lora.save_adapter(model, tmp_path)
    plain = GPT2LMHeadModel.from_pretrained(folder).freeze().to_precision(half)
    lora.load_adapter(plain, tmp_path)
    np.testing.assert_array_equal(plain(ids).numpy(), model(ids).numpy())


def test_a_layer_that_an_adapter_saves_whole_is_not_saved_from_16_bits(folder, tmp_path, half):
    config = lora.LoraConfig(**LORA, modules_to_save=["lm_head"])
    model = lora.inject(GPT2LMHeadModel.from_pretrained(folder), config)
    lora.save_adapter(model.to_precision(half), tmp_path / "trained")  # a head that is trained stays float32
    loaded = GPT2LMHeadModel.from_pretrained(folder)
    lora.load_adapter(loaded, tmp_path / "trained")
    with pytest.raises(UserError, match=f"kept in {half} now: save the adapter before that"):
        lora.save_adapter(loaded.to_precision(half), tmp_path / "rounded")
    assert not (tmp_path / "rounded").exists()


@ONE
def test_adapters_are_switched_on_halves(folder, tmp_path, seed, half):
    ids = tiny.random_ids(seed)
    model = adapted(folder, 3, half)
    lora.save_adapter(model, tmp_path)
    plain = GPT2LMHeadModel.from_pretrained(folder).freeze().to_precision(half)
    alone = plain(ids).numpy()
    adapters = lora.Adapters(plain)
    adapters.load(tmp_path, "a")
    adapters.use("a")
    np.testing.assert_array_equal(plain(ids).numpy(), model(ids).numpy())
    adapters.use(None)
    np.testing.assert_array_equal(plain(ids).numpy(), alone)


def test_a_weight_that_float16_cannot_hold_is_named(folder):
    model = GPT2LMHeadModel.from_pretrained(folder).freeze()
    weight = model.transformer.h[1].mlp.c_fc.weight
    weight.assign(np.full(weight.shape, 70000, np.float32))
    weight.stop_grad()
    with pytest.raises(UserError, match=r"h\.1\.mlp\.c_fc\.weight holds 7e\+04, more than fp16 can: use bf16"):
        model.to_precision("fp16")


def test_a_precision_is_chosen_once(folder):
    model = GPT2LMHeadModel.from_pretrained(folder).to_precision("bf16")
    for other in ("fp32", "fp16", "int8"):
        with pytest.raises(ValueError, match="no change from bf16"):
            model.to_precision(other)
    assert model.to_precision("bf16").precision == "bf16"
