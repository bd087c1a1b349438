"""A model whose large weights are int8 or bfloat16, for use on the CPU: each generated token reads a quarter, or half.

Projections and token embedding, and with it the head, are made narrow; norms, biases and positions stay float32.
"""

from typing import TYPE_CHECKING

import numpy as np

from common.errors import ParameterError, UserError
from common.memory import give_back
from gpt2_jittor.model.layers import Layer, TiedHead, is_tied
from gpt2_jittor.ops.head_loss import head_loss
from gpt2_jittor.ops.narrow import FORMATS, as_read, narrow_linear, narrow_transposed, to_var, widened
from gpt2_jittor.runtime.backend import jt

if TYPE_CHECKING:
    from gpt2_jittor.model.pretrained import GPT2PreTrained


class QuantizedLinear(Layer):
    """A projection with a narrow weight. In a tuple Jittor finds no parameter: it is not trained or saved."""

    def __init__(self, base: Layer, weights: str):
        self.quantized = weights
        self._weight = _narrow_of(base, weights, is_table=False)
        self.bias = base.bias

    @property
    def shape(self) -> tuple[int, int]:
        """How many numbers go in and come out."""
        return self._weight[0].shape[1], self.bias.shape[0]

    @property
    def parts(self) -> tuple:
        """What the decoding kernel reads: bfloat16 panels, or int8 rows [out, in] and scales [out]; the bias [out]."""
        return *self._weight, self.bias

    def execute(self, x, activation=None):
        """activation(x) @ weight + bias, forward only: x float32 [..., in] → [..., out]."""
        return narrow_linear(x if activation is None else activation(x), *self.parts)


class QuantizedTable(Layer):
    """A token embedding or a head with narrow rows, one for each token."""

    def __init__(self, base: Layer, weights: str):
        self.quantized = weights
        self._rows = _narrow_of(base, weights, is_table=True)

    @property
    def parts(self) -> tuple:
        """What the decoding kernel reads: rows [vocab, width], scales [vocab] where the format has them."""
        return self._rows

    def logits(self, x):
        """The product of hidden states [tokens, width] with every row, [tokens, vocab]."""
        return narrow_transposed(x, *self.parts)

    def losses(self, x, targets, smoothing: float = 0.0):
        """The cross-entropy of those logits, [tokens]."""
        return head_loss(x, widened(*self.parts), targets, smoothing=smoothing)


class QuantizedEmbedding(QuantizedTable):
    """The token embedding. A tied head shares it."""

    def execute(self, ids):
        """ids int32, any shape [...] → float32 [..., width]. Ids out of range read garbage: check them before."""
        return widened(*(part[ids] for part in self.parts))


class QuantizedHead(QuantizedTable):
    """A head of its own."""

    def execute(self, x):
        """Hidden states float32 [tokens, width] → logits [tokens, vocab], forward only."""
        return self.logits(x)


def narrow(array: np.ndarray, weights: str, is_table: bool) -> tuple:
    """A projection's float32 numbers [in, out], or a token table's [vocab, width], as the kernels read them: Vars."""
    values, *scales = FORMATS[weights](array if is_table else array.T)
    parts = (to_var(values if is_table else as_read(values)), *map(jt.array, scales))
    jt.sync(list(parts))  # the float32 numbers are not needed any more
    return parts


def _narrow_of(base: Layer, weights: str, is_table: bool) -> tuple:
    kept = base.weight
    return kept if isinstance(kept, tuple) else narrow(kept.numpy(), weights, is_table)


def quantize(model: "GPT2PreTrained", weights: str) -> None:
    """Makes the model's projections and token tables narrow, "int8" or "bf16"; their float32 memory is freed.

    A weight that is narrow already is taken as it is. Raises UserError on CUDA, which has no such kernels; where an
    adapter stands beside the weights, and must be merged first; and for a model that is quantised already.
    """
    if jt.flags.use_cuda:
        raise ParameterError("{weights} {0} works on the CPU only: leave it out, or give {device} cpu", weights)
    if not model.is_plain:
        raise UserError(f"the adapter is not part of the weights yet: merge it before they become {weights}")
    model.check_full("quantise it")
    body = model.transformer
    for block in body.h:
        for part, names in ((block.attn, ("c_attn", "c_proj")), (block.mlp, ("c_fc", "c_proj"))):
            for name in names:
                setattr(part, name, QuantizedLinear(getattr(part, name), weights))
        _free()  # one block's float32 numbers at a time
    head, embedding = getattr(model, "lm_head", None), body.wte
    body.wte = QuantizedEmbedding(embedding, weights)
    if head is not None:
        model.lm_head = TiedHead(body.wte) if is_tied(head, embedding) else QuantizedHead(head, weights)
    _free()


def _free() -> None:
    jt.sync_all()
    jt.gc()
    give_back()
