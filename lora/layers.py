"""A projection with LoRA beside it (Hu et al. 2021):

    x [.., in] ──┬── weight [in, out] (frozen) ─────────────────────────── + ── y [.., out]
                 └── dropout ── lora_A [r, in] ── lora_B [out, r] ── · α/r ─┘

B starts at zero, so an adapter that was never trained changes nothing. The wrapper keeps the projection's own
`weight` and `bias` under their own names: a checkpoint's keys stay the attributes' paths.
"""

import math

import numpy as np

from gpt2_jittor.backend import jt
from gpt2_jittor.layers import Conv1D
from gpt2_jittor.ops.linear import linear
from gpt2_jittor.ops.lora_linear import lora_linear
from lora.config import LayerSettings


class LoraMatrix(jt.nn.Module):
    """One of the two small matrices, oriented as torch's Linear: [out, in]."""

    def __init__(self, values: np.ndarray):
        self.weight = jt.array(values.astype(np.float32))


class LoraLinear(jt.nn.Module):
    """A wrapped projection. `merged`: the product B A is inside `weight`, and is not added again."""

    @classmethod
    def from_base(
        cls, base: Conv1D, given: LayerSettings, generator: np.random.Generator, init: bool | str = True
    ) -> "LoraLinear":
        """Wraps `base`, sharing its weight and bias, with freshly drawn matrices (`initial_matrices`)."""
        layer = cls()
        layer.weight, layer.bias = base.weight, base.bias
        layer.scaling, layer.dropout = given.scaling, given.dropout
        inputs, outputs = base.weight.shape
        a, b = initial_matrices(inputs, outputs, given.rank, generator, init)
        layer.lora_A, layer.lora_B = LoraMatrix(a), LoraMatrix(b)
        layer.merged = False
        return layer

    def execute(self, x, activation=None):
        """With z = activation(x): z @ weight + bias + scaling · dropout(z) @ Aᵀ @ Bᵀ, x float32 [..., in] → [..., out].

        Dropout is on in training only. A merged layer costs what a plain projection does.
        """
        if self.merged:
            return linear(x, self.weight, self.bias, activation)
        p = self.dropout if self.is_training() else 0.0
        a, b = self.lora_A.weight, self.lora_B.weight
        return lora_linear(x, self.weight, self.bias, a, b, self.scaling, p, activation)

    def delta(self):
        """What merging adds to `weight`: scaling · (B A)ᵀ, [in, out] in float32."""
        return jt.matmul(self.lora_A.weight.transpose(), self.lora_B.weight.transpose()) * self.scaling

    def merge(self) -> None:
        """Adds `delta` to the weight, in place. Does nothing where it is merged already."""
        if not self.merged:
            self._add(self.delta())

    def unmerge(self) -> None:
        """Takes `delta` out again: the old weight, to rounding. Does nothing where it is not merged."""
        if self.merged:
            self._add(-self.delta())

    def _add(self, delta) -> None:
        self.weight.assign((self.weight + delta).detach())
        self.weight.stop_grad()
        self.merged = not self.merged


def initial_matrices(inputs: int, outputs: int, rank: int, generator: np.random.Generator, init: bool | str):
    """A [rank, in] and B [out, rank] as PEFT draws them. `init` is the configuration's `init_lora_weights`.

    True: A by torch's kaiming_uniform(a=√5), that is U(±1/√fan_in), and B zeros. "gaussian": A is normal with
    deviation 1/rank. False: B is drawn like A, so that the adapter acts at once.
    """
    if init == "gaussian":
        a = generator.standard_normal((rank, inputs)) / rank
    else:
        a = generator.uniform(-1, 1, (rank, inputs)) / math.sqrt(inputs)
    if init is False:
        return a, generator.uniform(-1, 1, (outputs, rank)) / math.sqrt(rank)
    return a, np.zeros((outputs, rank))
