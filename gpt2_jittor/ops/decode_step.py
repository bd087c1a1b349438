"""One new token for each of a few rows: a block of GPT-2, and its head, as one CPU kernel each.

Decoding reads every weight once a token, and that is what it should cost: these kernels read them at the speed of the
memory, for all rows at once. There is no composed definition of its own; the layers are it.
"""

from collections.abc import Sequence

from gpt2_jittor.ops import fused

_KERNELS = ("vectors", "products", "layer_norm", "gelu_new", "decode_step")
_NORMS = "{in4_p, in5_p, (float)eps}, {in6_p, in7_p, (float)eps}"


def block(x, table, keys, values, norms: Sequence, projections: Sequence, *, heads, scale, eps, offset):
    """A block's output, float32 [rows, width], for x [rows, width].

    table [rows, tokens] int32, keys and values [slots, capacity, width]: see `KVCache.make_room`; the new token's are
    written into them. norms: weight and bias of ln_1 and ln_2. projections: those of c_attn, c_proj, c_fc and c_proj,
    each (weight [in, out], bias [out]) or (int8 panels, scales [out], bias [out]).
    """
    inputs = [x, table, keys, values, *norms]
    call = []
    for parts in projections:
        call.append(_projection(parts, len(inputs)))
        inputs += parts
    source = (
        "const Shape shape = {in0_shape0, in0_shape1, (long)heads, (float)scale};\n"
        "const Cache cache = {in2_p, in3_p, in1_p, in1_shape1, in2_shape1, (long)offset};\n"
        f"decode_block(shape, cache, Norm{_NORMS.replace('}, {', '}, Norm{')}, {', '.join(call)}, in0_p, out0_p);"
    )
    (out,) = fused.run(_KERNELS, source, [x.shape], inputs, heads=heads, scale=scale, eps=eps, offset=offset)
    return out


def _projection(parts: Sequence, at: int) -> str:
    """The kernel's arguments for a projection whose parts are its inputs from number `at` on."""
    if len(parts) == 2:
        return f"Plain{{in{at}_p, in{at}_shape0, in{at}_shape1}}, in{at + 1}_p"
    return f"Panels{{in{at}_p, in{at + 1}_p, in{at}_shape1, in{at + 1}_shape0}}, in{at + 2}_p"


def head(x, norm: Sequence, weight, scales=None, *, eps):
    """Logits, float32 [rows, vocab], of x [rows, width] before the final norm, whose weight and bias `norm` holds.

    weight [vocab, width] is float32, or int8 with the scales [vocab] of its rows.
    """
    inputs = [x, *norm, weight] + ([] if scales is None else [scales])
    source = (
        f"decode_head(Norm{{in1_p, in2_p, (float)eps}}, in3_p, {'nullptr' if scales is None else 'in4_p'},"
        " in0_p, out0_p, in0_shape0, in0_shape1, in3_shape0);"
    )
    (logits,) = fused.run(_KERNELS, source, [[x.shape[0], weight.shape[0]]], inputs, eps=eps)
    return logits
