"""The next token's logits: by the kernel of `ops/decode_step.py` where it can, by the model's layers elsewhere."""

import numpy as np

from gpt2_jittor.model.cache import KVCache
from gpt2_jittor.model.ids import check_ids
from gpt2_jittor.model.lm import GPT2LMHeadModel
from gpt2_jittor.ops import fused
from gpt2_jittor.ops.activation import gelu_new
from gpt2_jittor.ops.decode_step import BlockWeights, DecodeStep, applies
from gpt2_jittor.ops.matmul import products_in
from gpt2_jittor.runtime.backend import jt


def last_logits(model: GPT2LMHeadModel, input_ids: np.ndarray, cache: KVCache, attention_mask=None) -> np.ndarray:
    """Logits of the last position alone, float32 [batch, vocab]; the cache takes up the ids."""
    return logits_on_device(model, input_ids, cache, attention_mask).numpy()


def logits_on_device(model: GPT2LMHeadModel, input_ids: np.ndarray, cache: KVCache, attention_mask=None):
    """As `last_logits`, but a Var, where it is: it must be computed before the cache takes up more."""
    with jt.no_grad(), products_in(model.precision):
        if attention_mask is None and cache.length and input_ids.shape[1] == 1 and _applies(model, cache):
            return _next_token(model, input_ids[:, 0], cache)
        hidden = model.hidden(input_ids, attention_mask, cache)
        return model.lm_head(hidden[:, -1])  # [batch, width] -> [batch, vocab]


def read(model: GPT2LMHeadModel, input_ids: np.ndarray, cache: KVCache, attention_mask=None) -> None:
    """The cache takes up ids [batch, time] whose logits nobody wants."""
    with jt.no_grad():
        model.hidden(input_ids, attention_mask, cache).sync()


def _applies(model: GPT2LMHeadModel, cache: KVCache) -> bool:
    """Whether the kernel computes what the layers would; it is then ready as `cache.step`."""
    config = model.config
    if model.precision != "fp32" or model.is_training():
        return False
    if not applies(cache.rows, config.n_positions, config.head_dim):
        return False
    if cache.step is None:
        cache.step = _prepare(model) if _has_kernel(model) else False
    return bool(cache.step)


def _has_kernel(model: GPT2LMHeadModel) -> bool:
    layers = model.layers().values()
    by_rows = any(layer.row_lora for layer in layers) and not fused.enabled_on_cpu()
    return (
        model.transformer.h[0].mlp.activation is gelu_new
        and all(layer.is_for_kernel for layer in layers)
        and not by_rows
    )


def _projections(block) -> tuple:
    return block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj


def _prepare(model: GPT2LMHeadModel) -> DecodeStep:
    """The kernel, with this model's parameters."""
    body = model.transformer
    blocks = [
        BlockWeights(
            (block.ln_1.weight, block.ln_1.bias, block.ln_2.weight, block.ln_2.bias),
            [projection.parts for projection in _projections(block)],
            [projection.row_lora for projection in _projections(block)],
        )
        for block in body.h
    ]
    return DecodeStep(
        tokens=body.wte.parts,
        positions=body.wpe.weight,
        blocks=blocks,
        norm=(body.ln_f.weight, body.ln_f.bias),
        head=model.lm_head.parts,
        heads=model.config.n_head,
        scales=[block.attn.scale for block in body.h],
        eps=model.config.layer_norm_epsilon,
    )


def _next_token(model: GPT2LMHeadModel, ids: np.ndarray, cache: KVCache):
    """The logits [rows, vocab] after one more token of each row, ids [rows]."""
    check_ids(ids, model.config.vocab_size, "input_ids")
    counts = cache.counts() + 1
    if counts.max() > model.config.n_positions:
        raise ValueError(f"{counts.max()} tokens do not fit {model.config.n_positions} positions")
    table = cache.reserve()
    return cache.step(ids, counts - 1, table, cache.layers, cache.offset, _spans(model))


def _spans(model: GPT2LMHeadModel) -> np.ndarray | None:
    """Which ranks of its projections' LoRA each row has, int [projections, rows, 2]; None where they have none."""
    projections = [projection for block in model.transformer.h for projection in _projections(block)]
    if not projections[0].row_lora:
        return None
    return np.stack([projection.row_spans for projection in projections])
