"""The next token's logits: by the kernel of `ops/decode_step.py` where it can, by the model's layers elsewhere."""

import numpy as np

from gpt2_jittor.backend import jt
from gpt2_jittor.cache import KVCache
from gpt2_jittor.layers import TiedHead
from gpt2_jittor.model import GPT2LMHeadModel
from gpt2_jittor.ops import fused
from gpt2_jittor.ops.activation import gelu_new
from gpt2_jittor.ops.decode_step import BlockWeights, DecodeStep
from gpt2_jittor.ops.precision import products_in
from gpt2_jittor.pretrained import check_ids

MOST_ROWS = 32  # above, products of whole matrices are faster


def last_logits(model: GPT2LMHeadModel, input_ids: np.ndarray, cache: KVCache, attention_mask=None) -> np.ndarray:
    """Logits of the last position alone, float32 [batch, vocab]; the cache takes up the ids."""
    with jt.no_grad(), products_in(model.precision):
        if attention_mask is None and cache.length and input_ids.shape[1] == 1 and _applies(model, cache):
            return _next_token(model, input_ids[:, 0], cache).numpy()
        hidden = model.hidden(input_ids, attention_mask, cache)
        return model.lm_head(hidden[:, -1]).numpy()  # [batch, width] -> [batch, vocab]


def _applies(model: GPT2LMHeadModel, cache: KVCache) -> bool:
    """Whether the kernel computes what the layers would; it is then ready as `cache.step`."""
    if not fused.enabled_on_cpu() or model.precision != "fp32" or cache.rows > MOST_ROWS or model.is_training():
        return False
    if cache.step is None:
        cache.step = _prepare(model) if _is_plain(model) else False
    return bool(cache.step)


def _is_plain(model: GPT2LMHeadModel) -> bool:
    body = model.transformer
    # what is wrapped around a weight says by `merged` whether the weight is all there is
    wrapped = (body.wte, *(part for block in body.h for part in _projections(block)))
    return body.h[0].mlp.activation is gelu_new and all(getattr(module, "merged", True) for module in wrapped)


def _projections(block) -> tuple:
    return block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj


def _prepare(model: GPT2LMHeadModel) -> DecodeStep:
    """The kernel, with this model's parameters."""
    body, head = model.transformer, model.lm_head
    blocks = [
        BlockWeights(
            (block.ln_1.weight, block.ln_1.bias, block.ln_2.weight, block.ln_2.bias),
            [_parts(part, "weight", "bias") for part in _projections(block)],
        )
        for block in body.h
    ]
    return DecodeStep(
        tokens=_parts(body.wte, "weight"),
        positions=body.wpe.weight,
        blocks=blocks,
        norm=(body.ln_f.weight, body.ln_f.bias),
        head=_parts(head._embedding if isinstance(head, TiedHead) else head, "weight"),
        heads=model.config.n_head,
        scales=[block.attn.scale for block in body.h],
        eps=model.config.layer_norm_epsilon,
    )


def _parts(module, *names: str) -> tuple:
    """What the kernel reads of a layer: its int8 parts, or float32 parameters."""
    return module.parts if getattr(module, "quantized", False) else tuple(getattr(module, name) for name in names)


def _next_token(model: GPT2LMHeadModel, ids: np.ndarray, cache: KVCache):
    """The logits [rows, vocab] after one more token of each row, ids [rows]."""
    check_ids(ids, model.config.vocab_size, "input_ids")
    counts = cache.counts() + 1
    if counts.max() > model.config.n_positions:
        raise ValueError(f"{counts.max()} tokens do not fit {model.config.n_positions} positions")
    table = cache.make_room()
    return cache.step(ids, counts - 1, table, cache.layers, cache.offset)
