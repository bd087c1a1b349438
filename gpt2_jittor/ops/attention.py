"""Causal self-attention on rows of `heads * dim` columns, head by head side by side, as `c_attn` packs them."""

import numpy as np

from gpt2_jittor.ops import dropout as dropout_op
from gpt2_jittor.ops import fused
from gpt2_jittor.ops.matmul import matmul
from gpt2_jittor.ops.proof import Comparison
from gpt2_jittor.runtime.backend import jt

WIDEST_ON_CUDA = 128  # a head's floats: kernels/cuda/attention_forward.cuh
HIDDEN = -1e30  # a score that softmax turns into 0; not -inf, a row of which would be NaN


def attention(qkv, mask, heads: int, scale: float, dropout: float = 0.0):
    """Attention among the tokens of one window.

    qkv [batch, time, 3 * width] as `c_attn` gives it, mask [batch, time] int32 (0: a pad, seen by nobody)
    → [batch, time, width]. Softmax over scale · q·k, with dropout on its result. A query that sees nothing
    (a pad on the left) yields zeros.
    """
    seed = dropout_op.seeds.next() if dropout else 0
    if fused.products_on_cpu() or _has_kernel_on_cuda(qkv.shape[-1] // 3 // heads):
        return _Attention.apply(qkv, mask, heads, scale, dropout, seed)
    return composed(*_split(qkv), mask, heads, scale, dropout, seed)


def cached_attention(q, k, v, mask, heads: int, scale: float):
    """Attention of the newest tokens over all tokens so far, forward only.

    q [batch, new, width], k and v [batch, all, width], mask [batch, all] int32 → [batch, new, width].
    """
    # a cache in a half type is composed's alone
    if not (fused.products() or _has_kernel_on_cuda(q.shape[-1] // heads)):
        return composed(q, k, v, mask, heads, scale)
    return _cached_attention(q, k, v, mask, heads, scale)


def _split(qkv):
    width = qkv.shape[-1] // 3
    return qkv[:, :, :width], qkv[:, :, width : 2 * width], qkv[:, :, 2 * width :]


def _cached_attention(q, k, v, mask, heads: int, scale: float):
    batch, queries, width = q.shape
    out, _ = fused.run(
        ["shapes", "exp", "random", "sgemm", "attention"],
        _SHAPE.format(keys="in1_shape1", width="in0_shape2")
        + "attention_forward(s, in0_p, in0_shape2, in1_p, in2_p, in1_shape2, in3_p, out0_p, out1_p);",
        [[batch, queries, width], [batch, heads, queries, 2]],
        [q, k, v, mask],
        heads=heads,
        scale=scale,
        p=0,
        seed=0,
        threshold=0,
    )
    return out


def _has_kernel_on_cuda(dim: int) -> bool:
    return dim <= WIDEST_ON_CUDA and fused.products_on_cuda("attention")


def composed(q, k, v, mask, heads: int, scale: float, dropout: float = 0.0, seed: int = 0):
    """The definition, in plain Jittor: arguments as of the two functions above."""
    batch, queries, width = q.shape
    keys = k.shape[1]

    def split(x):
        """[batch, time, width] → [batch, heads, time, head_dim]."""
        return x.reshape(batch, x.shape[1], heads, width // heads).permute(0, 2, 1, 3)

    # scaled first, as float16 ends at 65,504; transposed by the product itself: permute would do it on the CPU, always
    scores = matmul(split(q) * scale, split(k), transposed=True)  # [batch, heads, queries, keys]
    position = jt.arange(queries).unsqueeze(1) + (keys - queries)
    visible = (jt.arange(keys).unsqueeze(0) <= position).unsqueeze(0) * mask.unsqueeze(1)
    visible = visible.unsqueeze(1).bool().float32()  # [batch, 1, queries, keys]
    scores = scores * visible + HIDDEN * (1 - visible)
    top = scores.max(-1, keepdims=True).stop_grad()
    weights = jt.exp(scores - top) * visible
    weights = weights / jt.maximum(weights.sum(-1, keepdims=True), 1e-30)
    if dropout:
        weights = dropout_op.composed(weights, dropout, seed)
    return matmul(weights, split(v)).permute(0, 2, 1, 3).reshape(batch, queries, width)


def proofs(rng: np.random.Generator):
    """Heads of every template and of no multiple of four, a token more than a tile, pads, dropout; cached keys."""
    for dim, heads, time in ((30, 3, 65), (64, 1, 33), (100, 2, 33)):
        mask = np.ones((2, time), np.int32)
        mask[0, :3] = mask[1, -5:] = 0
        seen, settings = jt.array(mask), (heads, dim**-0.5, 0.2, int(rng.integers(2**32)))
        yield Comparison(
            f"{time} tokens, heads of {dim}",
            lambda qkv, seen=seen, settings=settings: _Attention.apply(qkv, seen, *settings),
            lambda qkv, seen=seen, settings=settings: composed(*_split(qkv), seen, *settings),
            [rng.standard_normal((2, time, 3 * heads * dim))],
        )
        q, k, v = (rng.standard_normal((2, count, heads * dim)) for count in (2, time, time))
        yield Comparison(
            f"2 tokens behind {time - 2}, heads of {dim}",
            lambda *qkv, seen=seen, settings=settings[:2]: _cached_attention(*qkv, seen, *settings),
            lambda *qkv, seen=seen, settings=settings[:2]: composed(*qkv, seen, *settings),
            [q, k, v],
            gradient=False,
        )


_SHAPE = """
    AttentionShape s = {{in0_shape0, (long)heads, in0_shape1, {keys}, {width} / (long)heads, {keys} - in0_shape1,
                         (float)scale, (uint32_t)seed, (uint32_t)threshold, (float)(1 / (1 - p))}};
"""


class _Attention(jt.Function):
    def execute(self, qkv, mask, heads, scale, dropout, seed):
        """qkv [batch, time, 3 * width], mask [batch, time] → [batch, time, width].

        Of each softmax it keeps the largest score and 1 / the sum of exponentials, [batch, heads, time, 2].
        """
        self.qkv, self.mask = qkv, mask
        self.numbers = {
            "heads": heads,
            "scale": scale,
            "p": dropout,
            "seed": seed,
            "threshold": dropout_op.threshold(dropout),
        }
        batch, time, width = qkv.shape
        self.out, self.softmax = fused.run(
            ["shapes", "exp", "random", "sgemm", "attention"],
            _SHAPE.format(keys="in0_shape1", width="in0_shape2 / 3")
            + "const long c = in0_shape2 / 3;"
            + "attention_forward(s, in0_p, 3 * c, in0_p + c, in0_p + 2 * c, 3 * c, in1_p, out0_p, out1_p);",
            [[batch, time, width // 3], [batch, heads, time, 2]],
            [qkv, mask],
            **self.numbers,
        )
        return self.out

    def grad(self, dout):
        """dout [batch, time, width] → the gradient by qkv. The dropout's mask is drawn again from its seed."""
        (dqkv,) = fused.run(
            ["shapes", "exp", "random", "sgemm", "attention"],
            _SHAPE.format(keys="in0_shape1", width="in0_shape2 / 3")
            + "const long c = in0_shape2 / 3;"
            + "attention_backward(s, in0_p, in0_p + c, in0_p + 2 * c, 3 * c, in1_p, in2_p, in3_p, in4_p,"
            + " out0_p, out0_p + c, out0_p + 2 * c);",
            [self.qkv.shape],
            [self.qkv, self.mask, self.out, self.softmax, dout],
            **self.numbers,
        )
        return dqkv, None, None, None, None, None
