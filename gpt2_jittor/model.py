"""GPT-2, under Hugging Face's names: a checkpoint's key is the attribute's path, `transformer.h.0.attn.c_attn.weight`.

Projections keep GPT-2's Conv1D orientation, weight [in, out]. Blocks know nothing of LoRA: it wraps projections.
"""

import dataclasses
import math
from pathlib import Path

import numpy as np

from common.errors import UserError
from gpt2_jittor import weights
from gpt2_jittor.backend import jt
from gpt2_jittor.cache import KVCache
from gpt2_jittor.config import GPT2Config
from gpt2_jittor.hub import locate
from gpt2_jittor.initial import initial_weights
from gpt2_jittor.ops.activation import ACTIVATIONS
from gpt2_jittor.ops.attention import attention, cached_attention
from gpt2_jittor.ops.cross_entropy import cross_entropy
from gpt2_jittor.ops.dropout import dropout
from gpt2_jittor.ops.layer_norm import layer_norm
from gpt2_jittor.ops.linear import linear

IGNORED = -100  # the label of a position that is not scored, as in PyTorch


class Conv1D(jt.nn.Module):
    """x @ weight + bias, weight [in, out]."""

    def __init__(self, inputs: int, outputs: int):
        self.weight = jt.zeros((inputs, outputs))
        self.bias = jt.zeros((outputs,))

    def execute(self, x):
        return linear(x, self.weight, self.bias)


class LayerNorm(jt.nn.Module):
    def __init__(self, width: int, eps: float):
        self.eps = eps
        self.weight = jt.ones((width,))
        self.bias = jt.zeros((width,))

    def execute(self, x):
        return layer_norm(x, self.weight, self.bias, self.eps)


class Embedding(jt.nn.Module):
    def __init__(self, rows: int, width: int):
        self.weight = jt.zeros((rows, width))

    def execute(self, ids):
        return self.weight[ids]


class Attention(jt.nn.Module):
    def __init__(self, config: GPT2Config, layer: int):
        self.layer = layer
        self.heads = config.n_head
        self.dropout, self.resid_dropout = config.attn_pdrop, config.resid_pdrop
        # reorder_and_upcast_attn applies the same factor inside the product, in float32, which this always is
        self.scale = 1 / math.sqrt(config.head_dim) if config.scale_attn_weights else 1.0
        if config.scale_attn_by_inverse_layer_idx:
            self.scale /= layer + 1
        self.c_attn = Conv1D(config.n_embd, 3 * config.n_embd)
        self.c_proj = Conv1D(config.n_embd, config.n_embd)

    def execute(self, x, mask, cache: KVCache | None):
        qkv = self.c_attn(x)  # [batch, time, 3 * width]
        training = self.is_training()
        if cache is None:
            x = attention(qkv, mask, self.heads, self.scale, self.dropout if training else 0.0)
        else:
            width = x.shape[-1]
            keys, values = cache.append(self.layer, qkv[:, :, width : 2 * width], qkv[:, :, 2 * width :])
            x = cached_attention(qkv[:, :, :width], keys, values, mask, self.heads, self.scale)
        return dropout(self.c_proj(x), self.resid_dropout if training else 0.0)


class MLP(jt.nn.Module):
    def __init__(self, config: GPT2Config):
        self.c_fc = Conv1D(config.n_embd, config.mlp_size)
        self.c_proj = Conv1D(config.mlp_size, config.n_embd)
        self.activation = ACTIVATIONS[config.activation_function]
        self.dropout = config.resid_pdrop

    def execute(self, x):
        x = self.c_proj(self.activation(self.c_fc(x)))
        return dropout(x, self.dropout if self.is_training() else 0.0)


class Block(jt.nn.Module):
    def __init__(self, config: GPT2Config, layer: int):
        self.ln_1 = LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.attn = Attention(config, layer)
        self.ln_2 = LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.mlp = MLP(config)

    def execute(self, x, mask, cache):
        x = x + self.attn(self.ln_1(x), mask, cache)
        return x + self.mlp(self.ln_2(x))


class GPT2Model(jt.nn.Module):
    """From token ids to the hidden states after the final layer norm, [batch, time, width]."""

    def __init__(self, config: GPT2Config):
        self.wte = Embedding(config.vocab_size, config.n_embd)
        self.wpe = Embedding(config.n_positions, config.n_embd)
        self.h = jt.nn.ModuleList([Block(config, layer) for layer in range(config.n_layer)])
        self.ln_f = LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.dropout = config.embd_pdrop

    def execute(self, input_ids, mask, position_ids, cache):
        x = self.wte(input_ids) + self.wpe(position_ids)
        x = dropout(x, self.dropout if self.is_training() else 0.0)
        for block in self.h:
            x = block(x, mask, cache)
        return self.ln_f(x)


class TiedHead(jt.nn.Module):
    """The LM head that is the token embedding. Its weight is not listed twice among the parameters."""

    def __init__(self, embedding: Embedding):
        self._embedding = embedding

    @property
    def weight(self):
        return self._embedding.weight

    def execute(self, x):
        return jt.nn.matmul_transpose(x, self.weight)


class Head(jt.nn.Module):
    """An LM head of its own, weight [vocab, width] as torch's Linear has it."""

    def __init__(self, width: int, vocab: int):
        self.weight = jt.zeros((vocab, width))

    @classmethod
    def sharing(cls, weight) -> "Head":
        """A head on an existing weight [vocab, width]."""
        head = cls.__new__(cls)
        head.weight = weight
        return head

    def execute(self, x):
        return jt.nn.matmul_transpose(x, self.weight)


class GPT2LMHeadModel(jt.nn.Module):
    """GPT-2 with its language-model head.

    A new model has random weights (`GPT2LMHeadModel(config, seed)`); `from_pretrained` reads a checkpoint.
    It starts in evaluation mode, as transformers' does after loading: call `train()` for dropout.
    """

    def __init__(self, config: GPT2Config, seed: int = 0):
        self._build(config)
        for name, array in initial_weights(config, seed):
            self.parameter(name).assign(array)

    def _build(self, config: GPT2Config) -> None:
        self.config = config
        self.transformer = GPT2Model(config)
        if config.tie_word_embeddings:
            self.lm_head = TiedHead(self.transformer.wte)
        else:
            self.lm_head = Head(config.n_embd, config.vocab_size)
        self.eval()

    @classmethod
    def from_pretrained(cls, name_or_directory: str | Path) -> "GPT2LMHeadModel":
        """Reads a folder in Hugging Face's layout, or a model of the hub by its name.

        Raises UserError where there is none, or where its tensors are not exactly the configuration's.
        """
        directory = locate(str(name_or_directory))
        model = cls.__new__(cls)
        model._build(GPT2Config.from_pretrained(directory))
        shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
        for name, array in weights.read_tensors(directory, shapes):
            model.parameter(name).assign(array)
        return model

    def save_pretrained(self, directory: str | Path, dtype: str = "float32") -> None:
        """Writes a folder that transformers loads, with the same logits. `dtype`: float32 or float16.

        Raises UserError where an adapter stands beside the weights: it must be merged first.
        """
        if any(getattr(module, "merged", True) is False for module in self.modules()):
            raise UserError("the adapter is not part of the weights yet: merge it first, or save the adapter")
        tensors = {name: value.numpy() for name, value in self.named_parameters() if ".lora_" not in name}
        tied = isinstance(self.lm_head, TiedHead) and self.lm_head._embedding is self.transformer.wte
        if not tied:
            tensors["lm_head.weight"] = self.lm_head.weight.numpy()
        config = dataclasses.replace(self.config, tie_word_embeddings=tied)
        weights.write_model(directory, config, tensors, dtype)

    def execute(self, input_ids, attention_mask=None, cache: KVCache | None = None):
        """Logits float32 [batch, time, vocab] of ids [batch, time] (integers; numpy array, list or Var).

        `attention_mask` [batch, time]: 0 marks pads, on either side; positions count real tokens only.
        With a `cache`, the ids continue what it holds, and it takes them up.
        Raises ValueError for ids outside the vocabulary and for more tokens than there are positions.
        """
        hidden = self.hidden(input_ids, attention_mask, cache)
        batch, time, width = hidden.shape
        return self.lm_head(hidden.reshape(-1, width)).reshape(batch, time, -1)

    def hidden(self, input_ids, attention_mask=None, cache: KVCache | None = None):
        """The final hidden states, [batch, time, width]; arguments as of the model's call."""
        ids = _on_host(input_ids)
        _check_ids(ids, self.config.vocab_size, "input_ids")
        ids = ids.astype(np.int32)
        mask = np.ones_like(ids) if attention_mask is None else (_on_host(attention_mask) != 0).astype(np.int32)
        if mask.shape != ids.shape:
            raise ValueError(f"attention_mask is {list(mask.shape)}, input_ids {list(ids.shape)}")
        length = ids.shape[1] + (cache.length if cache is not None else 0)
        if length > self.config.n_positions:
            raise ValueError(f"{length} tokens do not fit {self.config.n_positions} positions")
        if cache is not None:
            mask = cache.extend_mask(mask)
        position_ids = np.maximum(np.cumsum(mask, axis=1, dtype=np.int32) - 1, 0)[:, -ids.shape[1] :]
        return self.transformer(jt.array(ids), jt.array(mask), jt.array(position_ids), cache)

    def loss(self, input_ids, labels, attention_mask=None):
        """Mean cross-entropy, in nats, over the labels that are not −100: a Var of one element.

        `labels` [batch, time] stand where their token stands in `input_ids`; the shift happens here.
        Raises ValueError where nothing is scored or a label is outside the vocabulary.
        """
        losses = self.losses(input_ids, labels, attention_mask)
        return losses.mean()

    def losses(self, input_ids, labels, attention_mask=None):
        """The cross-entropy of each scored position, [scored]; arguments and errors as of `loss`.

        The head's product, the largest of the model, is computed for scored positions alone.
        """
        labels = _on_host(labels)
        if labels.shape != np.shape(input_ids):
            raise ValueError(f"labels are {list(labels.shape)}, input_ids {list(np.shape(input_ids))}")
        targets = np.full_like(labels, IGNORED)
        targets[:, :-1] = labels[:, 1:]
        targets = targets.reshape(-1)
        rows = np.flatnonzero(targets != IGNORED).astype(np.int32)
        if not len(rows):
            raise ValueError("no label is scored: every one is -100 or stands at the first position")
        targets = targets[rows]
        _check_ids(targets, self.config.vocab_size, "labels")
        targets = targets.astype(np.int32)
        hidden = self.hidden(input_ids, attention_mask)
        hidden = hidden.reshape(-1, hidden.shape[-1])[jt.array(rows)]
        return cross_entropy(self.lm_head(hidden), jt.array(targets))

    def parameter(self, name: str):
        """The parameter at a dotted path."""
        value = self
        for part in name.split("."):
            value = value[int(part)] if part.isdigit() else getattr(value, part)
        return value

    # Jittor's own train() and eval() start and stop gradients, and so unfreeze what was frozen in between.
    def train(self):
        """Dropout on. Which parameters are trained does not change."""
        return self._set_training(True)

    def eval(self):
        """Dropout off. Which parameters are trained does not change."""
        return self._set_training(False)

    def _set_training(self, training: bool):
        for module in self.modules():
            module.is_train = training
        return self


def _on_host(values) -> np.ndarray:
    """Ids, labels or a mask as integers on the host, where they are checked before they are narrowed to int32."""
    values = values.numpy() if isinstance(values, jt.Var) else np.asarray(values)
    if values.dtype.kind not in "iub":
        raise ValueError(f"integers are needed, not {values.dtype}")
    return values.astype(np.int64)


def _check_ids(ids: np.ndarray, vocab_size: int, name: str) -> None:
    if ids.size and not (ids.min() >= 0 and ids.max() < vocab_size):
        raise ValueError(f"{name} hold {ids.min()} to {ids.max()}, the vocabulary 0 to {vocab_size - 1}")
