"""A projection with LoRA beside it (Hu et al. 2021):

    x [.., in] ──┬── base_layer [in, out] (frozen) ─────────────────────── + ── y [.., out]
                 └── dropout ── lora_A [r, in] ── lora_B [out, r] ── · α/r ─┘

B starts at zero, so an adapter that was never trained changes nothing.
"""

import math

import numpy as np

from gpt2_jittor.model.layers import Conv1D, Layer
from gpt2_jittor.ops.lora_linear import lora_linear, low_rank
from gpt2_jittor.runtime.backend import jt
from lora.config import LayerSettings


class AdapterLayer(Layer):
    """A layer that stands in the place of another, `base_layer`, and has parameters of its own beside its weights.

    A model finds the base's weight and bias at their usual paths. `merged`: what the adapter adds is inside the
    base's weight, and is not added again.
    """

    merged = False

    def __init__(self, base: Layer):
        self.base_layer = base

    @property
    def weight(self):
        """The base's weight. A base in int8 has none."""
        return self.base_layer.weight

    @property
    def bias(self):
        """The base's bias, None where it has none."""
        return self.base_layer.bias

    @property
    def parts(self) -> tuple:
        """What the decoding kernel reads of the base, which is all there is where this is merged."""
        return self.base_layer.parts

    @property
    def quantized(self) -> bool:
        """Whether the base is int8."""
        return self.base_layer.quantized

    @property
    def is_plain(self) -> bool:
        """Whether the base's weights are all that this computes with."""
        return self.merged

    def merge(self) -> None:
        """Puts what the adapter adds into the base's weight. Does nothing where it is merged already."""
        raise NotImplementedError

    def unmerge(self) -> None:
        """Takes it out again. Does nothing where it is not merged."""
        raise NotImplementedError


class LoraMatrix(jt.nn.Module):
    """One of the two small matrices, oriented as torch's Linear: [out, in]."""

    def __init__(self, values: np.ndarray):
        self.weight = jt.array(values.astype(np.float32))


class LoraLinear(AdapterLayer):
    """A projection with two trained matrices, `lora_A` [r, in] and `lora_B` [out, r], beside it."""

    @classmethod
    def from_base(
        cls, base: Layer, given: LayerSettings, generator: np.random.Generator, init: bool | str = True
    ) -> "LoraLinear":
        """Wraps `base`, a projection, in whatever precision it is, with freshly drawn matrices (`initial_matrices`)."""
        layer = cls(base)
        layer.scaling, layer.dropout = given.scaling, given.dropout
        a, b = initial_matrices(*base.shape, given.rank, generator, init)
        layer.lora_A, layer.lora_B = LoraMatrix(a), LoraMatrix(b)
        return layer

    def execute(self, x, activation=None):
        """With z = activation(x): base_layer(z) + scaling · dropout(z) @ Aᵀ @ Bᵀ, x float32 [..., in] → [..., out].

        Dropout is on in training only. A merged layer costs what its base does.
        """
        base = self.base_layer
        if self.merged:
            return base(x, activation)
        p = self.dropout if self.is_training() else 0.0
        a, b = self.lora_A.weight, self.lora_B.weight
        if isinstance(base, Conv1D):  # one operator for both
            return lora_linear(x, base.weight, base.bias, a, b, self.scaling, p, activation)
        z = x if activation is None else activation(x)
        return base(z) + low_rank(z, a, b, self.scaling, p)

    def adapter_parameters(self) -> dict:
        """The two matrices."""
        return {"lora_A.weight": self.lora_A.weight, "lora_B.weight": self.lora_B.weight}

    def delta(self):
        """What merging adds to the weight: scaling · (B A)ᵀ, [in, out] in float32."""
        return jt.matmul(self.lora_A.weight.transpose(), self.lora_B.weight.transpose()) * self.scaling

    def merge(self) -> None:
        """Adds `delta` to the base's weight, in place, float32. Does nothing where it is merged already."""
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
