"""A language model's head with LoRA beside it: logits g · (x Wᵀ + s · dropout(x) Aᵀ Bᵀ).

    [x, s · dropout(x) Aᵀ]  [tokens, width + r]   ·   ([W, B] · g)ᵀ  [vocab, width + r]

One product, so that the loss is the plain head's operator and no [tokens, vocab] array exists.
"""

import numpy as np

from gpt2_jittor.model.layers import Head
from gpt2_jittor.ops.dropout import dropout
from gpt2_jittor.ops.head_loss import head_loss
from gpt2_jittor.ops.matmul import matmul
from gpt2_jittor.runtime.backend import jt
from lora.keys import A, B
from lora.layers import LoraLayer, LoraMatrix


class LoraHead(LoraLayer):
    """`lora_A` [r, width] and `lora_B` [vocab, r], beside a head of its own or the embedding's."""

    plain = Head
    names = (A.removeprefix("."), B.removeprefix("."))
    transposed = True

    def keep_matrices(self, a: np.ndarray, b: np.ndarray) -> None:
        """`lora_A.weight` and `lora_B.weight`."""
        self.lora_A, self.lora_B = LoraMatrix(a), LoraMatrix(b)

    def matrices(self) -> tuple:
        """A and B."""
        return self.lora_A.weight, self.lora_B.weight

    def execute(self, x):
        """Hidden states float32 [tokens, width] → logits [tokens, vocab]."""
        return self.base_layer(x) if self.merged else matmul(*self._sides(x), transposed=True)

    def losses(self, x, targets, smoothing: float = 0.0):
        """The cross-entropy of those logits in nats, [tokens]; targets int32 [tokens]."""
        if self.merged:
            return self.base_layer.losses(x, targets, smoothing)
        return head_loss(*self._sides(x), targets, smoothing=smoothing)

    def _sides(self, x) -> tuple:
        """What is multiplied: hidden states and the weight, each with LoRA's columns behind its own."""
        a, b = self.matrices()
        low = matmul(dropout(x, self.dropout if self.is_training() else 0.0), a, transposed=True) * self.scaling
        weight = jt.concat([self.weight.float32(), b], dim=1)
        factor = self.factor()
        return jt.concat([x, low], dim=1), weight if factor is None else weight * factor.unsqueeze(1)
