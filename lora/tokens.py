"""A token embedding of which some rows are trained (PEFT's `trainable_token_indices`):

    weight [vocab, width] (frozen) ──┐
                                     ├── a listed id reads its trained row, every other id its row of the weight
    rows   [k, width]   (trained)  ──┘

and the same for the columns of a head that is tied to it. Neither product nor gradient ever has the size of the
whole table. The path of the rows is PEFT's key, in which they are called a delta, though they are whole values.
"""

from collections.abc import Sequence

import numpy as np

from gpt2_jittor.model.layers import Embedding
from gpt2_jittor.ops.head_loss import head_loss
from gpt2_jittor.ops.matmul import matmul
from gpt2_jittor.runtime.backend import jt
from lora.layers import AdapterLayer


class Rows(jt.nn.Module):
    """The trained rows, under PEFT's name."""

    def __init__(self, values: np.ndarray):
        self.trainable_tokens_delta = jt.array(values)


class TrainedTokens(AdapterLayer):
    """An embedding of which some rows are trained. Merged, they stand in its weight, which is then all that is read."""

    @classmethod
    def from_base(cls, base: Embedding, tokens: Sequence[int]) -> "TrainedTokens":
        """Wraps `base`; the rows of `tokens` start as they are there."""
        layer = cls(base)
        layer._tokens = jt.array(np.array(tokens, np.int32))
        slots = np.full(base.weight.shape[0], -1, np.int32)
        slots[list(tokens)] = np.arange(len(tokens))
        layer._slots = jt.array(slots)  # token id → row among the trained ones, −1: none
        layer.token_adapter = Rows(base.weight[layer._tokens].float32().numpy())
        return layer

    @property
    def rows(self):
        """The trained rows [k, width]."""
        return self.token_adapter.trainable_tokens_delta

    def adapter_parameters(self) -> dict:
        """The trained rows."""
        return {"token_adapter.trainable_tokens_delta": self.rows}

    def execute(self, ids):
        """ids int32, any shape [...] → float32 [..., width]. Ids out of range read garbage: check them before."""
        x = self.base_layer(ids)  # [..., width]
        if self.merged:
            return x
        slots = self._slots[ids].unsqueeze(-1)  # [..., 1]
        trained = self.rows[jt.maximum(slots.squeeze(-1), 0)]
        return jt.ternary(slots.broadcast(x.shape) >= 0, trained, x)

    def logits(self, x):
        """The tied head: hidden states [tokens, width] → [tokens, vocab]."""
        logits = self.base_layer.logits(x)
        if self.merged:
            return logits
        return logits.setitem((slice(None), self._tokens), matmul(x, self.rows, transposed=True))

    def losses(self, x, targets, smoothing: float = 0.0):
        """The cross-entropy of those logits, [tokens]."""
        if self.merged:
            return self.base_layer.losses(x, targets, smoothing)
        return head_loss(x, self.weight, targets, self._tokens, self.rows, smoothing)

    def merge(self) -> None:
        """Writes the rows over the weight's and keeps the old ones. Does nothing where it is merged already."""
        if not self.merged:
            self._originals = self.weight[self._tokens].numpy()
            self._write(self.rows.numpy())

    def unmerge(self) -> None:
        """Writes the old rows back, exactly. Does nothing where it is not merged."""
        if self.merged:
            self._write(self._originals)

    def _write(self, rows: np.ndarray) -> None:
        weight = np.array(self.weight.numpy())
        weight[self._tokens.numpy()] = rows
        self.weight.assign(weight)
        self.weight.stop_grad()
        self.merged = not self.merged
