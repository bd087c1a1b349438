"""The next token's logits: by the kernels of `ops/decode_step.py` where they can, by the model's layers elsewhere."""

import numpy as np

from gpt2_jittor.backend import jt
from gpt2_jittor.cache import KVCache
from gpt2_jittor.model import GPT2LMHeadModel
from gpt2_jittor.ops import decode_step, fused
from gpt2_jittor.ops.activation import gelu_new
from gpt2_jittor.pretrained import check_ids

MOST_ROWS = 32  # above, products of whole matrices are faster


def last_logits(model: GPT2LMHeadModel, input_ids: np.ndarray, cache: KVCache, attention_mask=None) -> np.ndarray:
    """Logits of the last position alone, float32 [batch, vocab]; the cache takes up the ids."""
    with jt.no_grad():
        if attention_mask is None and cache.length and input_ids.shape[1] == 1 and _applies(model, len(input_ids)):
            return _step(model, input_ids[:, 0], cache).numpy()
        hidden = model.hidden(input_ids, attention_mask, cache)
        return model.lm_head(hidden[:, -1]).numpy()


def _applies(model: GPT2LMHeadModel, rows: int) -> bool:
    """Whether the kernels compute what the layers would."""
    if not fused.enabled() or rows > MOST_ROWS or model.is_training():
        return False
    first = model.transformer.h[0]
    # what is wrapped around a weight says by `merged` whether the weight is all there is
    return first.mlp.activation is gelu_new and all(
        getattr(module, "merged", True)
        for block in model.transformer.h
        for module in (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj)
    )


def _step(model: GPT2LMHeadModel, ids: np.ndarray, cache: KVCache):
    """The logits [rows, vocab] after one more token of each row, ids [rows]."""
    check_ids(ids, model.config.vocab_size, "input_ids")
    body = model.transformer
    table = cache.make_room()
    positions = cache.counts() - 1
    if positions.max() >= model.config.n_positions:
        raise ValueError(f"{positions.max() + 1} tokens do not fit {model.config.n_positions} positions")
    x = body.wte(jt.array(ids.astype(np.int32))) + body.wpe(jt.array(positions))
    table = jt.array(table)
    for block in body.h:
        attn, mlp = block.attn, block.mlp
        x = decode_step.block(
            x,
            table,
            *cache.layers[attn.layer],
            (block.ln_1.weight, block.ln_1.bias, block.ln_2.weight, block.ln_2.bias),
            [(part.weight, part.bias) for part in (attn.c_attn, attn.c_proj, mlp.c_fc, mlp.c_proj)],
            heads=attn.heads,
            scale=attn.scale,
            eps=block.ln_1.eps,
            offset=cache.offset,
        )
    return decode_step.head(x, (body.ln_f.weight, body.ln_f.bias), model.lm_head.weight, eps=body.ln_f.eps)
