"""A model whose large weights are int8, for use on the CPU: each generated token reads a quarter of the memory.

Projections and token embedding, and with it the head, are quantised; norms, biases and positions stay float32.
"""

from common.errors import ParameterError, UserError
from common.memory import give_back
from gpt2_jittor.model.layers import Layer, TiedHead, is_tied
from gpt2_jittor.model.pretrained import GPT2PreTrained
from gpt2_jittor.ops.head_loss import head_loss
from gpt2_jittor.ops.int8 import int8_linear, int8_transposed, quantize_rows, to_panels
from gpt2_jittor.runtime.backend import jt


class Int8Linear(Layer):
    """A projection in int8. What begins with an underscore is no parameter to Jittor: it is not trained or saved."""

    quantized = True

    def __init__(self, base):
        rows, scales = quantize_rows(base.weight.numpy().T)
        self._panels, self._scales = jt.array(to_panels(rows)), jt.array(scales)
        self.bias = base.bias

    @property
    def shape(self) -> tuple[int, int]:
        """How many numbers go in and come out."""
        return self._panels.shape[1], self._scales.shape[0]

    @property
    def parts(self) -> tuple:
        """int8 panels, scales [out], bias [out]."""
        return self._panels, self._scales, self.bias

    def execute(self, x, activation=None):
        """activation(x) @ weight + bias, forward only: x float32 [..., in] → [..., out]."""
        return int8_linear(x if activation is None else activation(x), *self.parts)


class Int8Table(Layer):
    """A token embedding or a head in int8, a scale for each token."""

    quantized = True

    def __init__(self, base):
        rows, scales = quantize_rows(base.weight.numpy())
        self._rows, self._scales = jt.array(rows), jt.array(scales)

    @property
    def parts(self) -> tuple:
        """int8 [vocab, width], scales [vocab]."""
        return self._rows, self._scales

    def logits(self, x):
        """The product of hidden states [tokens, width] with every row, [tokens, vocab]."""
        return int8_transposed(x, *self.parts)

    def losses(self, x, targets, smoothing: float = 0.0):
        """The cross-entropy of those logits, [tokens]."""
        return head_loss(x, self._rows.float32() * self._scales.unsqueeze(1), targets, smoothing=smoothing)


class Int8Embedding(Int8Table):
    """The token embedding in int8. A tied head shares it."""

    def execute(self, ids):
        """ids int32, any shape [...] → float32 [..., width]. Ids out of range read garbage: check them before."""
        return self._rows[ids].float32() * self._scales[ids].unsqueeze(-1)


class Int8Head(Int8Table):
    """A head of its own in int8."""

    def execute(self, x):
        """Hidden states float32 [tokens, width] → logits [tokens, vocab], forward only."""
        return self.logits(x)


def quantize(model: GPT2PreTrained) -> None:
    """Replaces the model's projections and token tables by int8 ones; their float32 memory is freed.

    Raises UserError on CUDA, which has no such kernels; where an adapter stands beside the weights, and must be merged
    first; and for weights in 16 bits.
    """
    if jt.flags.use_cuda:
        raise ParameterError("{int8} works on the CPU only: leave it out, or give {device} cpu")
    if not model.is_plain:
        raise UserError("the adapter is not part of the weights yet: merge it before they become int8")
    model.check_full("quantise it")
    body = model.transformer
    for block in body.h:
        for part, names in ((block.attn, ("c_attn", "c_proj")), (block.mlp, ("c_fc", "c_proj"))):
            for name in names:
                setattr(part, name, Int8Linear(getattr(part, name)))
        _free()  # one block's float32 numbers at a time
    head, embedding = getattr(model, "lm_head", None), body.wte
    body.wte = Int8Embedding(embedding)
    if head is not None:
        model.lm_head = TiedHead(body.wte) if is_tied(head, embedding) else Int8Head(head)
    _free()


def _free() -> None:
    jt.sync_all()
    jt.gc()
    give_back()
