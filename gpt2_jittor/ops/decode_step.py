"""One new token for each of a few rows, through the whole model, as one operator.

Decoding reads every weight once a token, and that is what it should cost: the CPU's kernel reads them at the speed of
the memory, for all rows at once. It is one operator because a token takes milliseconds, of which a dozen operators with
a dozen weights each would cost a good part. On CUDA it launches four kernels and four of cuBLAS's products a layer, one
after the other: the host has nothing to do between them. Where it does not run the model's layers do, which compute the
same; `composed` is for proofs.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gpt2_jittor.ops import attention, fused, layer_norm, linear
from gpt2_jittor.ops.activation import gelu_new_composed
from gpt2_jittor.ops.matmul import matmul
from gpt2_jittor.ops.narrow import c_type, pointer
from gpt2_jittor.ops.proof import Comparison
from gpt2_jittor.runtime.backend import jt

MOST_ROWS = 32  # on the CPU: above, products of whole matrices are faster
SHARED_FLOATS = 12 * 1024  # of a block on CUDA: kernels/cuda/decode_attention.cuh keeps a head's scores there
PARTS = 17  # of a head's floats, there, too
PRODUCTS = ("bits", "bfloat16", "vectors", "products", "whole_products")  # with a weight, after shapes.h
_KERNELS = ("shapes", "exp", *PRODUCTS, "layer_norm", "gelu_new", "decode_step")
_SOURCE = """
    const Block<{kind}> blocks[] = {{{blocks}}};
    const Step step = {{in0_shape1, in2_shape1, blocks[0].c_fc.weight.outputs, (long)heads, in0_p, in0_p + in0_shape1,
                        in1_p, in1_shape1, {keys}_shape1, (long)offset, (float)eps}};
    decode_step(step, {tokens}, in2_p, blocks, in3_p, in3_shape0, Norm{{in4_p, in5_p}}, {head}, {{outputs}});
"""
_STRUCTS = {"float32": "Plain", "bfloat16": "Panels", "int8": "Rows"}  # of a projection, in C++
# what a step's seconds are measured of: Part of kernels/decode_step.h
MEASURED = ("embedding", "norms", "attn.c_attn", "attention", "attn.c_proj", "mlp.c_fc, GELU", "mlp.c_proj", "head")
_measured: list | None = None


@contextlib.contextmanager
def measured() -> Iterator[list]:
    """Within, every step on the CPU appends what its parts took: seconds, a Var float32 [len(MEASURED)]."""
    global _measured
    before, _measured = _measured, []
    try:
        yield _measured
    finally:
        _measured = before


def applies(rows: int, tokens: int, head_dim: int) -> bool:
    """Whether the kernel of the device in use takes so many rows of so many tokens at most."""
    if fused.enabled_on_cpu():
        return rows <= MOST_ROWS
    return tokens + PARTS * head_dim <= SHARED_FLOATS and fused.enabled_on_cuda("decode_step")


@dataclass(frozen=True)
class BlockWeights:
    """A block's parameters. A projection is a weight, and the bias [out]: float32 [in, out], bfloat16 panels, or int8
    rows [out, in] and their scales [out] (`ops/narrow.py`)."""

    norms: Sequence  # weight and bias of ln_1, then of ln_2
    projections: Sequence[Sequence]  # c_attn, c_proj, c_fc and the MLP's c_proj
    lora: Sequence[Sequence] = ((), (), (), ())  # of each (a [ranks, in], scaled b [ranks, out]), or nothing; CPU only


class DecodeStep:
    """The kernel for one model.

    tokens and head [vocab, width]: the weight, and a narrow one's scales [vocab], if any. positions [n_positions,
    width], norm: weight and bias of ln_f. scales: by what each block multiplies its attention's products. Where blocks
    have LoRA, all their projections do, and each row has its own part of the ranks of each.
    """

    def __init__(self, tokens, positions, blocks: Sequence[BlockWeights], norm, head, heads, scales, eps):
        self._numbers = {"heads": heads, "eps": eps}
        self._vocab = head[0].shape[0]
        # the first two change with every token, so do the spans at the end, and the keys and values before them with
        # every rearrangement
        self._inputs = [positions, jt.array(np.array(scales, np.float32)), *norm]
        tokens, head = self._table(tokens), self._table(head)
        places = [[self._projection(parts) for parts in block.projections] for block in blocks]
        norms = [self._add(block.norms) for block in blocks]
        lora = [[self._add(parts) if parts else None for parts in block.lora] for block in blocks]
        keys = 2 + len(self._inputs)
        spans = keys + 2 * len(blocks)
        written = []
        for layer, (projections, at) in enumerate(zip(places, norms, strict=True)):
            cached = f"in{keys + 2 * layer}_p, in{keys + 2 * layer + 1}_p"
            ln_1, ln_2 = f"{{in{at}_p, in{at + 1}_p}}", f"{{in{at + 2}_p, in{at + 3}_p}}"
            whole = [
                f"{{{projection}, {self._lora(lora[layer][i], spans, 4 * layer + i)}}}"
                for i, projection in enumerate(projections)
            ]
            written.append(f"{{{ln_1}, {ln_2}, {', '.join(whole)}, {cached}}}")
        self._source = _SOURCE.format(
            keys=f"in{keys}",
            kind=_STRUCTS[str(blocks[0].projections[0][0].dtype)],
            blocks=",\n".join(written),
            tokens=tokens,
            head=head,
        )

    def __call__(
        self, ids: np.ndarray, positions: np.ndarray, table: np.ndarray, layers: Mapping, offset: int, spans=None
    ):
        """Logits, float32 [rows, vocab], of ids at positions, both [rows].

        table [rows, tokens], layers and offset are those of a KVCache that has reserved a place for them; the new keys
        and values are written into its arrays, so the result must be fetched before the next step. spans, where blocks
        have LoRA: int [projections, rows, 2], the first of each row's ranks and the one behind its last.
        """
        inputs = [jt.array(np.stack([ids, positions]).astype(np.int32)), jt.array(table), *self._inputs]
        for layer in range(len(layers)):
            inputs += layers[layer]
        if spans is not None:
            inputs.append(jt.array(spans.astype(np.int32)))
        shapes, outputs = [[len(ids), self._vocab]], "out0_p"
        if _measured is not None:
            shapes, outputs = [*shapes, [len(MEASURED)]], "out0_p, out1_p"
        source = self._source.replace("{outputs}", outputs)
        logits, *seconds = fused.run(_KERNELS, source, shapes, inputs, offset=offset, **self._numbers)
        if _measured is not None:
            _measured.extend(seconds)
        return logits

    def _add(self, parts: Sequence) -> int:
        """Takes up inputs; returns the number of the first."""
        self._inputs += parts
        return 2 + len(self._inputs) - len(parts)

    def _table(self, parts: Sequence) -> str:
        rows, *scales = parts
        at = self._add(parts)
        scale = f"in{at + 1}_p" if scales else "nullptr"
        return f"Table<{c_type(rows)}>{{{pointer(rows, f'in{at}')}, {scale}, in{at}_shape0}}"

    def _projection(self, parts: Sequence) -> str:
        weight, *scales, _ = parts
        at = self._add(parts)
        values, bias = pointer(weight, f"in{at}"), f"in{at + len(parts) - 1}"
        if scales:
            return f"{{{values}, in{at + 1}_p, in{at}_shape1, in{at}_shape0}}, {bias}_p"
        outputs = f"{bias}_shape0"  # the last panel may be filled up
        return f"{{{values}, in{at}_shape{'0' if weight.ndim == 2 else '1'}, {outputs}}}, {bias}_p"

    def _lora(self, at: int | None, spans: int, place: int) -> str:
        """What is added to the projection at this place among all; `at` is the number of its a."""
        if at is None:
            return "{nullptr, nullptr, nullptr}"
        return f"{{in{at}_p, in{at + 1}_p, in{spans}_p + {2 * place} * in0_shape1}}"


def composed(ids, places, table, layers, offset: int, tokens, positions, blocks, norm, head, heads: int, scales, eps):
    """What a DecodeStep of these float32 weights gives for these arguments, in plain Jittor; the cache is only read."""
    rows, past = len(table), table.shape[1] - 1
    x = tokens[0][jt.array(ids)] + positions[jt.array(places)]  # [rows, width]
    mask = jt.array((table >= 0).astype(np.int32))
    for layer, (block, scale) in enumerate(zip(blocks, scales, strict=True)):
        c_attn, c_proj, c_fc, mlp_proj = block.projections
        qkv = linear.composed(layer_norm.composed(x, *block.norms[:2], eps), *c_attn)
        q, k, v = (part.reshape(rows, 1, -1) for part in jt.chunk(qkv, 3, dim=1))
        at = np.maximum(table[:, :past], 0) * layers[layer][0].shape[1] + offset + np.arange(past)
        kept = [x.reshape(-1, x.shape[-1])[jt.array(at.astype(np.int32))] for x in layers[layer]]
        keys, values = jt.concat([kept[0], k], dim=1), jt.concat([kept[1], v], dim=1)
        mixed = attention.composed(q, keys, values, mask, heads, scale)
        x = x + linear.composed(mixed.reshape(rows, -1), *c_proj)
        inner = gelu_new_composed(linear.composed(layer_norm.composed(x, *block.norms[2:], eps), *c_fc))
        x = x + linear.composed(inner, *mlp_proj)
    return matmul(layer_norm.composed(x, *norm, eps), head[0], transposed=True)


def proofs(rng: np.random.Generator):
    """Two layers; rows whose tokens stand in each other's slots behind an offset, and pads."""
    heads, width, vocab, offset = 3, 60, 67, 2
    table = np.array([[0, 2, 0, 0, 0], [-1, 1, 0, 2, 1], [-1, -1, 2, 1, 2]], np.int32)
    ids, places = rng.integers(0, vocab, 3), (table >= 0).sum(1) - 1
    projections = [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)]
    block = [(width,)] * 4 + [shape for sides in projections for shape in (sides, sides[1:])] + [(3, 8, width)] * 2
    shapes = [(vocab, width), (5, width), (width,), (width,), (vocab, width), *block, *block]

    def weights_and_cache(tokens, positions, weight, bias, head, *others):
        layers = others[: len(block)], others[len(block) :]
        blocks = [BlockWeights(layer[:4], [layer[at : at + 2] for at in (4, 6, 8, 10)]) for layer in layers]
        given = {"tokens": (tokens,), "positions": positions, "blocks": blocks, "norm": (weight, bias), "head": (head,)}
        given |= {"heads": heads, "scales": [0.3, 0.2], "eps": 1e-5}
        return given, dict(enumerate(layer[12:] for layer in layers))

    def by_kernel(*arrays):
        weights, cache = weights_and_cache(*arrays)
        return DecodeStep(**weights)(ids, places, table, cache, offset)

    def by_definition(*arrays):
        weights, cache = weights_and_cache(*arrays)
        return composed(ids, places, table, cache, offset, **weights)

    inputs = [rng.standard_normal(shape) * 0.3 for shape in shapes]
    yield Comparison("a token of three rows", by_kernel, by_definition, inputs, gradient=False)
