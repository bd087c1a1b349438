"""GPT-2's layers, under Hugging Face's names: a checkpoint's key is the attribute's path, `h.0.attn.c_attn.weight`.

Projections keep GPT-2's Conv1D orientation, weight [in, out]. Blocks know nothing of LoRA: it wraps projections, and
a model asks every `Layer` the same questions, whatever it is.
"""

import functools
import math

from gpt2_jittor.checkpoint.config import GPT2Config
from gpt2_jittor.model.cache import KVCache
from gpt2_jittor.model.recompute import recomputed
from gpt2_jittor.ops.activation import ACTIVATIONS
from gpt2_jittor.ops.attention import attention, cached_attention
from gpt2_jittor.ops.dropout import add_dropped, dropout
from gpt2_jittor.ops.frozen import FrozenWeight
from gpt2_jittor.ops.head_loss import head_loss, logits
from gpt2_jittor.ops.layer_norm import layer_norm
from gpt2_jittor.ops.linear import linear
from gpt2_jittor.ops.matmul import to_compute_dtype
from gpt2_jittor.runtime.backend import jt


class Layer(jt.nn.Module):
    """What holds weights, and how it answers a model's questions. An adapter's layers answer otherwise (`lora/`).

    bias: float32 [out], None where the layer has none.
    quantized: what its weights have become, for use only, "int8" or "bf16"; "" where they are as they were read.
    is_plain: its weights are all that it computes with; no adapter stands beside them.
    row_lora: what the decoding kernel reads of adapters of which each row has its own: a [ranks, in], b [ranks, out].
    """

    bias = None
    quantized = ""
    is_plain = True
    row_lora = ()

    @property
    def is_for_kernel(self) -> bool:
        """Whether the decoding kernel reads all that it computes with."""
        return self.is_plain and not self.is_frozen

    @property
    def is_frozen(self) -> bool:
        """Whether its weight is kept in fewer bits and stays as it is (`ops/frozen.py`)."""
        return isinstance(getattr(self, "weight", None), FrozenWeight)

    @classmethod
    def sharing(cls, weight, bias=None) -> "Layer":
        """A layer on an existing weight, of the class's own shape, and bias [out], where it has one."""
        layer = cls.__new__(cls)
        layer.weight = weight
        if bias is not None:
            layer.bias = bias
        return layer

    def adapter_parameters(self) -> dict:
        """What an adapter adds beside the weights: Vars by their names below this layer."""
        return {}


class Conv1D(Layer):
    """activation(x) @ weight + bias, weight [in, out]; one of `ops.activation`, or none."""

    def __init__(self, inputs: int, outputs: int):
        self.weight = jt.zeros((inputs, outputs))
        self.bias = jt.zeros((outputs,))

    @property
    def shape(self) -> tuple[int, int]:
        """How many numbers go in and come out."""
        return tuple(self.weight.shape)

    @property
    def parts(self) -> tuple:
        """What the decoding kernel reads: weight, bias."""
        return self.weight, self.bias

    def execute(self, x, activation=None):
        """x float32 [..., in] → [..., out]."""
        return linear(x, self.weight, self.bias, activation)


class LayerNorm(Layer):
    """Layer normalisation over the last axis, with a trained weight and bias [width]."""

    def __init__(self, width: int, eps: float):
        self.eps = eps
        self.weight = jt.ones((width,))
        self.bias = jt.zeros((width,))

    def execute(self, x):
        """x float32 [..., width] → the same shape."""
        return layer_norm(x, self.weight, self.bias, self.eps)


class Embedding(Layer):
    """A table of vectors, weight [rows, width]: for token ids (`wte`) or positions (`wpe`)."""

    def __init__(self, rows: int, width: int):
        self.weight = jt.zeros((rows, width))

    @property
    def parts(self) -> tuple:
        """What the decoding kernel reads: the weight."""
        return (self.weight,)

    def execute(self, ids):
        """ids int32, any shape [...] → float32 [..., width]. Ids out of range read garbage: check them before."""
        return self.weight[ids].float32()  # of a weight that is kept in a half type

    def logits(self, x):
        """The product of hidden states [tokens, width] with every row: a tied head, [tokens, rows]."""
        return logits(x, self.weight)

    def losses(self, x, targets, smoothing: float = 0.0):
        """The cross-entropy of those logits, [tokens], without storing them, with labels smoothed as `head_loss` does
        it. Each head has this method."""
        return head_loss(x, self.weight, targets, smoothing=smoothing)


class Attention(jt.nn.Module):
    """Causal multi-head self-attention (Vaswani et al. 2017, section 3.2.2), with GPT-2's `c_attn` and `c_proj`.

    `layer` counts from 0: under it stand the keys in the cache, and some models divide their scores by layer + 1.
    """

    def __init__(self, config: GPT2Config, layer: int):
        self.layer = layer
        self.heads = config.n_head
        self.dropout = config.attn_pdrop
        # reorder_and_upcast_attn applies the same factor inside the product, in float32, which this always is
        self.scale = 1 / math.sqrt(config.head_dim) if config.scale_attn_weights else 1.0
        if config.scale_attn_by_inverse_layer_idx:
            self.scale /= layer + 1
        self.c_attn = Conv1D(config.n_embd, 3 * config.n_embd)
        self.c_proj = Conv1D(config.n_embd, config.n_embd)

    def execute(self, x, mask, cache: KVCache | None):
        """x float32 [batch, time, width] → the same shape.

        mask int32 [batch, all], 0 for a pad: of x's tokens, and with a `cache` of the tokens that it holds too.
        The cache takes up x's keys and values; then there is no dropout, and no gradient.
        """
        qkv = self.c_attn(x)  # [batch, time, 3 * width]
        if cache is None:
            # [batch, time, width], the heads side by side
            x = attention(qkv, mask, self.heads, self.scale, self.dropout if self.is_training() else 0.0)
        else:
            width = x.shape[-1]
            new = to_compute_dtype(qkv[:, :, width : 2 * width]), to_compute_dtype(qkv[:, :, 2 * width :])
            keys, values = cache.append(self.layer, *new)  # [batch, all, width]
            x = cached_attention(qkv[:, :, :width], keys, values, mask, self.heads, self.scale)
        return self.c_proj(x)


class MLP(jt.nn.Module):
    """The two projections after attention: width → `mlp_size` → width."""

    def __init__(self, config: GPT2Config):
        self.c_fc = Conv1D(config.n_embd, config.mlp_size)
        self.c_proj = Conv1D(config.mlp_size, config.n_embd)
        self.activation = ACTIVATIONS[config.activation_function]

    def execute(self, x):
        """x float32 [batch, time, width] → the same shape. `c_proj` applies the activation to what it is given."""
        return self.c_proj(self.c_fc(x), self.activation)  # between them [batch, time, mlp_size]


class Block(jt.nn.Module):
    """One layer of GPT-2, each part behind its layer norm (Radford et al. 2019, section 2.3):

    x = x + attn(ln_1(x));  x = x + mlp(ln_2(x)), with dropout on what is added.
    """

    def __init__(self, config: GPT2Config, layer: int):
        self.ln_1 = LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.attn = Attention(config, layer)
        self.ln_2 = LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.mlp = MLP(config)
        self.dropout = config.resid_pdrop

    def execute(self, x, mask, cache):
        """x float32 [batch, time, width] → the same shape. mask and cache as of `Attention.execute`."""
        p = self.dropout if self.is_training() else 0.0
        x = add_dropped(x, self.attn(self.ln_1(x), mask, cache), p)
        return add_dropped(x, self.mlp(self.ln_2(x)), p)


class GPT2Model(jt.nn.Module):
    """From token ids to the hidden states after the final layer norm, [batch, time, width].

    gradient_checkpointing: in training, blocks are computed again in the backward pass instead of being kept.
    """

    gradient_checkpointing = False

    def __init__(self, config: GPT2Config):
        self.wte = Embedding(config.vocab_size, config.n_embd)
        self.wpe = Embedding(config.n_positions, config.n_embd)
        self.h = jt.nn.ModuleList([Block(config, layer) for layer in range(config.n_layer)])
        self.ln_f = LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.dropout = config.embd_pdrop

    def execute(self, input_ids, mask, position_ids, cache):
        """input_ids and position_ids int32 [batch, time] → float32 [batch, time, width].

        mask and cache as of `Attention.execute`. Checks nothing: `GPT2PreTrained.hidden` makes and checks these.
        """
        x = self.wte(input_ids) + self.wpe(position_ids)  # [batch, time, width]
        x = dropout(x, self.dropout if self.is_training() else 0.0)
        if self.gradient_checkpointing and self.is_training():
            blocks = [functools.partial(block, mask=mask, cache=None) for block in self.h]
            trained = [[value for value in block.parameters() if not value.is_stop_grad()] for block in self.h]
            return self.ln_f(recomputed(blocks, x, trained))
        for block in self.h:
            x = block(x, mask, cache)
        return self.ln_f(x)


class TiedHead(Layer):
    """The LM head that is the token embedding. It holds no parameter, and no layer, of its own."""

    def __init__(self, embedding: Layer):
        self._tied_to = (embedding,)  # within a tuple Jittor does not find it a second time

    @property
    def embedding(self) -> Layer:
        """The token embedding, which may be an adapter's, or quantised."""
        return self._tied_to[0]

    @property
    def weight(self):
        """The token embedding's own weight, [vocab, width]. A quantised embedding has none."""
        return self.embedding.weight

    @property
    def parts(self) -> tuple:
        """What the decoding kernel reads: the token embedding's."""
        return self.embedding.parts

    def execute(self, x):
        """Hidden states float32 [tokens, width] → logits [tokens, vocab]."""
        return self.embedding.logits(x)

    def losses(self, x, targets, smoothing: float = 0.0):
        """The cross-entropy of those logits in nats, [tokens]; targets int32 [tokens]."""
        return self.embedding.losses(x, targets, smoothing)


class Head(Layer):
    """An LM head of its own, weight [vocab, width] as torch's Linear has it."""

    def __init__(self, width: int, vocab: int):
        self.weight = jt.zeros((vocab, width))

    @property
    def parts(self) -> tuple:
        """What the decoding kernel reads: the weight."""
        return (self.weight,)

    def execute(self, x):
        """Hidden states float32 [tokens, width] → logits [tokens, vocab]."""
        return logits(x, self.weight)

    def losses(self, x, targets, smoothing: float = 0.0):
        """The cross-entropy of those logits in nats, [tokens]; targets int32 [tokens]."""
        return head_loss(x, self.weight, targets, smoothing=smoothing)


def is_tied(head, embedding) -> bool:
    """Whether `head` is this embedding, as it is now: an adapter that is merged into one of the two unties them."""
    return isinstance(head, TiedHead) and head.embedding is embedding
