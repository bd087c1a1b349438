"""Models on a base of fewer bits, beside PEFT's on the numbers that it means: losses, adapters' gradients, memory."""

import numpy as np
import pytest
import safetensors.numpy
import tiny
import torch
import transformers
from adapters import assert_refused, our_name, values_of
from halves import TORCH, relative
from lora_settings import SETTINGS, peft_model, with_defaults
from references import GRADIENT, LOGITS, our_logits

import lora
from gpt2_jittor import GPT2ForSequenceClassification, GPT2LMHeadModel
from gpt2_jittor.model.quantized import quantize
from gpt2_jittor.ops.frozen import FrozenWeight
from gpt2_jittor.runtime.backend import jt

IDS = tiny.random_ids(seed=5)
KEPT = ("lm_head", "wte", "lm_head and wte", "bias all and lm_head")  # settings that train whole what is kept
TRAINED = {name: setting for name, setting in SETTINGS.items() if name not in KEPT}
# what adapters have of their own; where only names differ, the operators are the same
OFTEN = ("all projections", "head", "embeddings", "dora everywhere", "bias of B", "ln_f")
settings = pytest.mark.parametrize(
    "setting",
    [pytest.param(TRAINED[name], id=name, marks=() if name in OFTEN else pytest.mark.long) for name in TRAINED],
)


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    """A model whose matrices bfloat16 and float16 hold exactly: a base of 16 bits is then the float32 one."""
    folder = tmp_path_factory.mktemp("exact")
    model = tiny.hf_model(seed=3)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data = parameter.data.to(torch.bfloat16).float()
    model.save_pretrained(folder)
    return folder


def assert_gradients(model, reference, bound: float, lengths=(17, 5, 11)) -> None:
    """Loss and gradients of each trained parameter are those of PEFT's model, whose trained parameters ours takes."""
    for name, parameter in reference.named_parameters():
        if parameter.requires_grad:
            model.parameter(our_name(name)).assign(parameter.detach().numpy())
    found, expected = gradients(model, reference, tiny.padded_batch(seed=6, lengths=lengths))
    assert found.keys() == expected.keys()
    assert {name: e for name in expected if (e := relative(found[name], expected[name])) > bound} == {}


def gradients(model, reference, batch) -> tuple[dict, dict]:
    ids, labels, mask = batch
    loss = reference(torch.tensor(ids), attention_mask=torch.tensor(mask), labels=torch.tensor(labels)).loss
    loss.backward()
    expected = {our_name(n): p.grad.numpy() for n, p in reference.named_parameters() if p.requires_grad}
    names, parameters = zip(*lora.trainable(model), strict=True)
    ours = model.loss(ids, labels, mask)
    found = [gradient.numpy() for gradient in jt.grad(ours, list(parameters))]
    return dict(zip(["loss", *names], [ours.item(), *found], strict=True)), {"loss": loss.item(), **expected}


@settings
def test_each_gradient_on_a_base_of_16_bits_is_pefts_on_its_numbers(exact, setting):
    model = GPT2LMHeadModel.from_pretrained(exact, base="bf16")
    assert_gradients(
        lora.inject(model, lora.LoraConfig(**with_defaults(setting))), peft_model(exact, setting), GRADIENT
    )


@pytest.mark.parametrize("half", TORCH)
def test_logits_are_transformers_on_numbers_rounded_to_16_bits(base, half):
    theirs = transformers.GPT2LMHeadModel.from_pretrained(base, attn_implementation="eager").eval()
    for name, parameter in theirs.named_parameters():
        if parameter.ndim == 2 and "wpe" not in name:
            parameter.data = parameter.data.to(TORCH[half]).float()
    with torch.no_grad():
        expected = theirs(torch.tensor(IDS)).logits.numpy()
    np.testing.assert_allclose(our_logits(GPT2LMHeadModel.from_pretrained(base, base=half), IDS), expected, atol=LOGITS)


class Int8Projection(torch.autograd.Function):
    """LLM.int8() as `ops/frozen.py` defines it, in torch, in float64."""

    @staticmethod
    def forward(ctx, x, weight, threshold):
        scales = weight.abs().amax(0, keepdim=True) / 127
        ctx.whole, ctx.scales = (weight / scales).round().double(), scales.double()
        x = x.double()
        return (Int8Projection.rounded(x, threshold) @ (ctx.whole * ctx.scales)).float()

    @staticmethod
    def backward(ctx, dy):
        return (Int8Projection.rounded(dy.double() * ctx.scales, 0) @ ctx.whole.T).float(), None, None

    @staticmethod
    def rounded(x, threshold):
        outlier = (x.abs() > threshold).any(0) if threshold else torch.zeros(x.shape[1], dtype=bool)
        scale = (x.abs() * ~outlier).amax(1, keepdim=True).clamp(min=1e-30) / 127
        return torch.where(outlier, x, (x / scale).round() * scale)


@pytest.fixture
def in_int8(monkeypatch, request):
    """transformers' projections are LLM.int8()'s, and tables are what int8 keeps of them, from `rounded_tables` on."""

    def forward(self, x):
        flat = Int8Projection.apply(x.reshape(-1, x.shape[-1]), self.weight.detach(), request.param)
        return flat.reshape(*x.shape[:-1], -1) + self.bias

    monkeypatch.setattr(transformers.pytorch_utils.Conv1D, "forward", forward)
    monkeypatch.setattr("gpt2_jittor.ops.head_loss.multiplies_halves", lambda: False)  # the head's table in float32
    return request.param


def rounded_tables(model):
    for name, parameter in model.named_parameters():
        if "wte" in name and "lora" not in name:
            scales = parameter.data.abs().amax(1, keepdim=True) / 127
            parameter.data = (parameter.data / scales).round() * scales
    return model


@pytest.mark.parametrize("in_int8", [1.5, 0.0], indirect=True)
@pytest.mark.parametrize("name", ["all projections", pytest.param("dora", marks=pytest.mark.long)])
def test_each_gradient_on_an_int8_base_is_pefts_with_projections_of_llm_int8(base, in_int8, name):
    model = GPT2LMHeadModel.from_pretrained(base, base="int8", int8_threshold=in_int8)
    lora.inject(model, lora.LoraConfig(**with_defaults(SETTINGS[name])))
    # a number within 1e-6 of where rounding changes goes the other way in one of 10,000, by 1/127 of its row's largest;
    # no pads: they have other positions than in transformers, and so other outliers
    assert_gradients(model, rounded_tables(peft_model(base, SETTINGS[name])), 10 * GRADIENT, lengths=(13, 13, 13))


def test_the_threshold_is_seen_in_the_loss(base):
    batch = tiny.padded_batch(seed=6)
    losses = [
        GPT2LMHeadModel.from_pretrained(base, base="int8", int8_threshold=threshold).loss(*batch).item()
        for threshold in (0.0, 1.5)
    ]
    exact = GPT2LMHeadModel.from_pretrained(base).loss(*batch).item()
    assert abs(losses[1] - exact) < abs(losses[0] - exact) < 0.05 * exact


def test_blocks_that_are_computed_again_have_the_same_gradients_to_the_bit(base):
    found = []
    for again in (False, True):
        model = GPT2LMHeadModel.from_pretrained(base, base="int8")
        lora.inject(model, lora.LoraConfig(**with_defaults({"init_lora_weights": False, "lora_dropout": 0.1})))
        model.transformer.gradient_checkpointing = again
        model.train()
        jt.set_global_seed(1)
        from gpt2_jittor.ops.dropout import seeds

        seeds.restart(4, 2)
        parameters = [value for _, value in lora.trainable(model)]
        found.append([g.numpy() for g in jt.grad(model.loss(*tiny.padded_batch(seed=6)), parameters)])
    for kept, computed_again in zip(*found, strict=True):
        np.testing.assert_array_equal(computed_again, kept)


def test_a_classifiers_body_is_kept_in_int8_and_its_head_is_trained_in_float32(base):
    labels = ("no", "maybe", "yes")
    ids, classes = tiny.random_ids(4, (5, 9)), np.array([0, 2, 1, 1, 0])
    losses, by_head = [], []
    for kept in ("fp32", "int8"):
        model = GPT2ForSequenceClassification.from_pretrained(base, labels=labels, base=kept)
        config = lora.LoraConfig(task_type="SEQ_CLS", target_modules=["c_attn"], init_lora_weights=False)
        lora.inject(model, config)
        loss = model.loss(ids, classes)
        losses.append(loss.item())
        by_head.append(jt.grad(loss, dict(lora.trainable(model))["score.weight"]).numpy())
    assert model.transformer.wte.is_frozen and not model.score.is_frozen
    assert 0 < abs(losses[1] - losses[0]) < 0.02 * losses[0]
    assert 0 < relative(by_head[1], by_head[0]) < 0.1


def test_tokens_are_trained_beside_an_int8_table(base):
    losses, rows = [], []
    for kept in ("fp32", "int8"):
        model = GPT2LMHeadModel.from_pretrained(base, base=kept)
        lora.inject(model, lora.LoraConfig(target_modules=["c_attn"], trainable_token_indices=[300, 7]))
        ids, labels, mask = tiny.padded_batch(seed=6)
        ids[0, 2], labels[0, 2] = 300, 300
        parameters = dict(lora.trainable(model))
        place = "transformer.wte.token_adapter.trainable_tokens_delta"
        loss = model.loss(ids, labels, mask)
        losses.append(loss.item())
        rows.append(jt.grad(loss, parameters[place]).numpy())
    assert 0 < abs(losses[1] - losses[0]) < 0.02 * losses[0]
    assert relative(rows[1], rows[0]) < 0.05


# --- what is kept, and how much of it


def test_the_base_is_counted_and_is_no_parameter(base):
    float32, int8 = (GPT2LMHeadModel.from_pretrained(base, base=kept) for kept in ("fp32", "int8"))
    for model in (float32, int8):
        lora.inject(model, lora.LoraConfig(target_modules=["c_attn"]))
    assert lora.count(int8) == lora.count(float32)
    whole = {name for name in values_of(int8) if ".lora_" not in name}
    assert all("ln_" in name or name.endswith(".bias") or "wpe" in name for name in whole)


# --- what such a base cannot do


def test_what_needs_float32_weights_is_refused_in_one_line(base, tmp_path):
    model = GPT2LMHeadModel.from_pretrained(base, base="int8")
    assert_refused(lambda: model.save_pretrained(tmp_path / "saved"), "int8", "save the model", "in float32")
    assert_refused(lambda: model.resize_token_embeddings(400), "int8", "resize the vocabulary", "in float32")
    assert_refused(lambda: quantize(model, "int8"), "int8", "quantise it", "in float32")
    assert_refused(
        lambda: lora.inject(model, lora.LoraConfig(modules_to_save=["lm_head"])), "modules_to_save", "lm_head", "int8"
    )
    for start in ("pissa", "olora", "pissa_niter_4"):
        config = lora.LoraConfig(init_lora_weights=start)
        assert_refused(lambda config=config: lora.inject(model, config), start, "in float32")
    lora.inject(model, lora.LoraConfig())
    assert_refused(lambda: lora.merge(model), "int8", "merge the adapter", "in float32")
    with pytest.raises(ValueError, match="no change"):
        model.to_precision("bf16")


def test_an_adapter_that_brings_embeddings_is_refused(base, tmp_path):
    model = GPT2LMHeadModel.from_pretrained(base)
    lora.save_adapter(lora.inject(model, lora.LoraConfig()), tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    tensors["base_model.model.transformer.wte.weight"] = model.transformer.wte.weight.numpy() + 1
    safetensors.numpy.save_file(tensors, path, {"format": "pt"})
    kept = GPT2LMHeadModel.from_pretrained(base, base="bf16")
    assert_refused(lambda: lora.load_adapter(kept, tmp_path), str(tmp_path), "embeddings", "bf16")


def test_a_number_that_float16_cannot_hold_is_refused(base, tmp_path):
    from gpt2_jittor.model.frozen import check_range

    check_range("weight", np.array([65504.0, -3]), "fp16")
    assert_refused(lambda: check_range("h.0.weight", np.array([7e4]), "fp16"), "h.0.weight", "7e+04", "bf16")
    check_range("weight", np.array([7e4]), "bf16")


def test_adapters_go_to_and_from_float32_models(base, tmp_path):
    int8 = lora.inject(
        GPT2LMHeadModel.from_pretrained(base, base="int8"), lora.LoraConfig(init_lora_weights=False), seed=4
    )
    lora.save_adapter(int8, tmp_path)
    assert "int8" not in (tmp_path / "adapter_config.json").read_text()
    float32 = GPT2LMHeadModel.from_pretrained(base)
    lora.load_adapter(float32, tmp_path)
    lora.merge(float32)
    again = GPT2LMHeadModel.from_pretrained(base, base="int8")
    lora.load_adapter(again, tmp_path)
    np.testing.assert_array_equal(our_logits(again, IDS), our_logits(int8, IDS))
    assert isinstance(again.transformer.h[0].attn.c_attn.weight, FrozenWeight)
    assert relative(our_logits(int8, IDS), our_logits(float32, IDS)) < 0.1
