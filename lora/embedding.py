"""A token or position embedding with LoRA beside it, under PEFT's names, and without a dropout, as there."""

import numpy as np

from gpt2_jittor.model.layers import Embedding
from gpt2_jittor.ops.matmul import matmul
from gpt2_jittor.runtime.backend import jt
from lora.config import LayerSettings
from lora.keys import EMBEDDING_A, EMBEDDING_B
from lora.layers import LoraLayer


class LoraEmbedding(LoraLayer):
    """`lora_embedding_A` [r, rows] and `lora_embedding_B` [width, r]. A head that is tied to the embedding stays with
    the base's weight, in PEFT until it is merged, here then as well."""

    plain = Embedding
    names = (EMBEDDING_A.removeprefix("."), EMBEDDING_B.removeprefix("."))

    def begin(self, settings: LayerSettings, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """PEFT's: A zeros and B normal, whatever the other layers' start; both normal where that is False."""
        rows, width = self.sides(self.base_layer)
        b = generator.standard_normal((width, settings.rank))
        a = (
            generator.standard_normal((settings.rank, rows))
            if settings.start is False
            else np.zeros((settings.rank, rows))
        )
        return a, b

    def keep_matrices(self, a: np.ndarray, b: np.ndarray) -> None:
        """`lora_embedding_A` and `lora_embedding_B`."""
        self.lora_embedding_A, self.lora_embedding_B = (jt.array(values.astype(np.float32)) for values in (a, b))

    def matrices(self) -> tuple:
        """A and B."""
        return self.lora_embedding_A, self.lora_embedding_B

    def execute(self, ids):
        """g · (W[ids] + s · Aᵀ[ids] Bᵀ): ids int32 [...] → float32 [..., width]. Ids out of range read garbage."""
        x = self.base_layer(ids)
        if self.merged:
            return x
        a, b = self.matrices()
        low = a.transpose()[ids.reshape(-1)]  # [tokens, r]
        x = x + (matmul(low, b, transposed=True) * self.scaling).reshape(x.shape)
        factor = self.factor()
        return x if factor is None else x * factor
