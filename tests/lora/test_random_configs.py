"""Random settings over all of LoRA: trained beside PEFT, written, read back both ways, merged and unmerged."""

import numpy as np
import peft
import pytest
import tiny
import torch
import transformers
from adapters import our_name, pefts_logits, with_adapter
from references import GRADIENT, LOGITS, our_logits, torch_logits

import lora
from gpt2_jittor import GPT2LMHeadModel
from gpt2_jittor.runtime.backend import jt
from training.optimizer import AdamW

RATE, DECAY, UPDATES = 1e-2, 0.1, 3
LOSS = 1e-3  # relative, the contract's for each step beside PEFT
PATHS = ["h.0.attn.c_attn", "h.1.mlp.c_proj", "attn.c_proj", "mlp.c_fc", "c_attn", "c_proj", "c_fc"]


def draw(rng) -> dict:
    """Settings that PEFT takes. Each field is used about as often as not, and with the others."""

    def sometimes(share: float = 0.4) -> bool:
        return rng.random() < share

    names = [str(name) for name in rng.choice(PATHS, rng.integers(1, 4), replace=False)]
    settings = {"r": 2 * int(rng.integers(1, 4)), "lora_alpha": float(rng.integers(1, 9)), "target_modules": names}
    kind = rng.choice(["plain", "plain", "expression", "all-linear", "embeddings", "head"])
    if kind == "expression":
        settings["target_modules"] = rf"transformer\.h\.\d\.(attn|mlp)\.{names[0].rpartition('.')[2]}"
    elif kind == "all-linear":
        settings["target_modules"] = "all-linear"
    else:
        names += {"plain": [], "embeddings": ["wte", "wpe"], "head": ["lm_head"]}[kind]
        if sometimes(0.3):
            settings["layers_to_transform"] = [int(rng.integers(0, 2))]
            settings["target_modules"] = [*(name for name in names if "h." not in name and name != "c_fc"), "c_fc"]
    if sometimes():
        settings["rank_pattern"] = {"c_attn": 2, r"h\.1\.mlp\.c_proj": 8, "lm_head": 4, "wte": 2}
    if sometimes():
        settings["alpha_pattern"] = {"mlp.c_fc": 3.0, "c_proj": 5.0, "wte": 2.0}
    if sometimes(0.3) and "layers_to_transform" not in settings and len(names) > 1:
        settings["exclude_modules"] = ["h.1.attn.c_attn", "h.0.mlp.c_fc"]
    settings["use_rslora"], settings["use_dora"] = sometimes(), sometimes()
    settings["bias"] = str(rng.choice(["none", "none", "all", "lora_only"]))
    starts = [True, False, "gaussian", "orthogonal"]
    if kind in ("plain", "expression", "all-linear"):
        starts += ["pissa"]
        if not settings["use_dora"] and sometimes(0.3):
            settings["lora_bias"], starts = True, [True, False]
    settings["init_lora_weights"] = starts[rng.integers(0, len(starts))]
    if sometimes(0.3):
        settings["modules_to_save"] = ["ln_f"]
    return settings


def run_beside_peft(seed: int, folder) -> None:
    rng = np.random.default_rng(seed)
    settings = draw(rng)
    print(f"seed {seed}: {settings}")
    base = tiny.model_folder(folder / "base", seed % 2**31, tie_word_embeddings=bool(rng.random() < 0.7))
    plain = transformers.GPT2LMHeadModel.from_pretrained(base)
    theirs = peft.get_peft_model(plain, peft.LoraConfig(fan_in_fan_out=True, task_type="CAUSAL_LM", **settings))
    tiny.moved(theirs).save_pretrained(folder / "start")
    ours = GPT2LMHeadModel.from_pretrained(base)
    lora.load_adapter(ours, folder / "start", trained=True)
    ids = rng.integers(0, tiny.SIZES["vocab_size"], (2, 11))
    svd = 5 * LOGITS if settings["init_lora_weights"] == "pissa" else 0  # PEFT decomposes weights in float32
    np.testing.assert_allclose(our_logits(ours, ids), torch_logits(theirs, ids), rtol=0, atol=max(LOGITS, svd))
    train_both(ours, theirs, rng)
    trained = our_logits(ours, ids)
    # 3 updates of AdamW, whose first is the sign of each gradient, whatever its size
    assert np.abs(trained - torch_logits(theirs, ids)).mean() <= 0.02 * np.abs(trained).mean()
    near = max(LOGITS, 20 * rounding(theirs, ids))  # LOGITS is some 50 times what it usually is
    lora.save_adapter(ours, folder / "ours")
    np.testing.assert_allclose(pefts_logits(base, folder / "ours", ids), trained, rtol=0, atol=max(near, svd))
    again = with_adapter(base, folder / "ours")
    np.testing.assert_allclose(our_logits(again, ids), trained, rtol=0, atol=LOGITS / 10)  # of the same numbers
    lora.merge(again)
    np.testing.assert_allclose(our_logits(again, ids), trained, rtol=0, atol=near)
    lora.unmerge(again)
    np.testing.assert_allclose(our_logits(again, ids), trained, rtol=0, atol=near)


def rounding(model, ids) -> float:
    """How far a model of torch's is from its own float64: some of those drawn make much of the last digits."""
    single = torch_logits(model, ids)
    return np.abs(torch_logits(model.double(), ids) - single).max()


def train_both(ours, theirs, rng) -> None:
    """Some updates of AdamW on both, on the same batches; gradients and losses must be alike at each."""
    optimizer = AdamW(lora.trainable(ours), weight_decay=DECAY)
    named = {our_name(name): value for name, value in theirs.named_parameters() if value.requires_grad}
    assert {name for name, _ in optimizer.named_parameters} == named.keys()
    still = [name for name in named if "bias" in name or "ln_" in name]
    groups = [
        {"params": [value for name, value in named.items() if name not in still], "weight_decay": DECAY},
        {"params": [named[name] for name in still], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, lr=RATE)
    for update in range(UPDATES):
        ids, labels, mask = tiny.padded_batch(int(rng.integers(2**31)))
        tensors = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        loss = theirs(**{name: torch.tensor(value) for name, value in tensors.items()}).loss
        reference.zero_grad()
        loss.backward()
        our_loss = ours.loss(ids, labels, mask)
        gradients = jt.grad(our_loss, optimizer.parameters)
        assert our_loss.item() == pytest.approx(loss.item(), rel=LOSS)
        if update == 0:
            for (name, _), gradient in zip(optimizer.named_parameters, gradients, strict=True):
                expected = named[name].grad.numpy()
                assert np.linalg.norm(gradient.numpy() - expected) <= GRADIENT * np.linalg.norm(expected), name
        reference.step()
        optimizer.step(gradients, RATE)


@pytest.mark.parametrize("number", range(20))
def test_any_settings_train_as_in_peft_and_go_both_ways(seed, tmp_path, number):
    run_beside_peft(seed, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("number", range(200))
def test_many_settings_train_as_in_peft_and_go_both_ways(seed, tmp_path, number):
    run_beside_peft(seed, tmp_path)
