"""One new token for each of a few rows, through the whole model, as one operator.

Decoding reads every weight once a token, and that is what it should cost: the CPU's kernel reads them at the speed of
the memory, for all rows at once. It is one operator because a token takes milliseconds, of which a dozen operators with
a dozen weights each would cost a good part. On CUDA it launches four kernels and four of cuBLAS's products a layer, one
after the other: the host has nothing to do between them. There is no composed definition; the model's layers are it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gpt2_jittor.ops import fused
from gpt2_jittor.runtime.backend import jt

MOST_ROWS = 32  # on the CPU: above, products of whole matrices are faster
SHARED_FLOATS = 12 * 1024  # of a block on CUDA: kernels/cuda/decode_attention.cuh keeps a head's scores there
PARTS = 17  # of a head's floats, there, too
_KERNELS = ("exp", "vectors", "products", "layer_norm", "gelu_new", "decode_step")
_SOURCE = """
    const Block<{kind}> blocks[] = {{{blocks}}};
    const Step step = {{in0_shape1, in2_shape1, blocks[0].c_fc.weight.outputs, (long)heads, in0_p, in0_p + in0_shape1,
                        in1_p, in1_shape1, {keys}_shape1, (long)offset, (float)eps}};
    decode_step(step, {tokens}, in2_p, blocks, in3_p, in3_shape0, Norm{{in4_p, in5_p}}, {head}, out0_p);
"""


def applies(rows: int, tokens: int, head_dim: int) -> bool:
    """Whether the kernel of the device in use takes so many rows of so many tokens at most."""
    if fused.enabled_on_cpu():
        return rows <= MOST_ROWS
    return fused.enabled_on_cuda() and tokens + PARTS * head_dim <= SHARED_FLOATS


@dataclass(frozen=True)
class BlockWeights:
    """A block's parameters. A projection is (weight [in, out], bias [out]), or (int8 panels, scales [out], bias)."""

    norms: Sequence  # weight and bias of ln_1, then of ln_2
    projections: Sequence[Sequence]  # c_attn, c_proj, c_fc and the MLP's c_proj


class DecodeStep:
    """The kernel for one model.

    tokens and head [vocab, width]: (weight,) in float32, or (int8 weight, scales [vocab]). positions [n_positions,
    width], norm: weight and bias of ln_f. scales: by what each block multiplies its attention's products.
    """

    def __init__(self, tokens, positions, blocks: Sequence[BlockWeights], norm, head, heads, scales, eps):
        self._numbers = {"heads": heads, "eps": eps}
        self._vocab = head[0].shape[0]
        # the first two change with every token, and the keys and values at the end with every rearrangement
        self._inputs = [positions, jt.array(np.array(scales, np.float32)), *norm]
        tokens, head = self._table(tokens), self._table(head)
        places = [[self._projection(parts) for parts in block.projections] for block in blocks]
        norms = [self._add(block.norms) for block in blocks]
        keys = 2 + len(self._inputs)
        written = []
        for layer, (projections, at) in enumerate(zip(places, norms, strict=True)):
            cached = f"in{keys + 2 * layer}_p, in{keys + 2 * layer + 1}_p"
            ln_1, ln_2 = f"{{in{at}_p, in{at + 1}_p}}", f"{{in{at + 2}_p, in{at + 3}_p}}"
            written.append(f"{{{ln_1}, {ln_2}, {', '.join(projections)}, {cached}}}")
        self._source = _SOURCE.format(
            keys=f"in{keys}",
            kind="Plain" if len(blocks[0].projections[0]) == 2 else "Panels",
            blocks=",\n".join(written),
            tokens=tokens,
            head=head,
        )

    def __call__(self, ids: np.ndarray, positions: np.ndarray, table: np.ndarray, layers: Mapping, offset: int):
        """Logits, float32 [rows, vocab], of ids at positions, both [rows].

        table [rows, tokens], layers and offset are those of a KVCache that has reserved a place for them; the new keys
        and values are written into its arrays, so the result must be fetched before the next step.
        """
        inputs = [jt.array(np.stack([ids, positions]).astype(np.int32)), jt.array(table), *self._inputs]
        for layer in range(len(layers)):
            inputs += layers[layer]
        shapes = [[len(ids), self._vocab]]
        (logits,) = fused.run(_KERNELS, self._source, shapes, inputs, offset=offset, **self._numbers)
        return logits

    def _add(self, parts: Sequence) -> int:
        """Takes up inputs; returns the number of the first."""
        self._inputs += parts
        return 2 + len(self._inputs) - len(parts)

    def _table(self, parts: Sequence) -> str:
        at = self._add(parts)
        kind, scales = ("float", "nullptr") if len(parts) == 1 else ("int8_t", f"in{at + 1}_p")
        return f"Table<{kind}>{{in{at}_p, {scales}, in{at}_shape0}}"

    def _projection(self, parts: Sequence) -> str:
        at = self._add(parts)
        if len(parts) == 2:
            return f"{{{{in{at}_p, in{at}_shape0, in{at}_shape1}}, in{at + 1}_p}}"
        return f"{{{{in{at}_p, in{at + 1}_p, in{at}_shape1, in{at + 1}_shape0}}, in{at + 2}_p}}"
