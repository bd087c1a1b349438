"""A projection with LoRA beside it, `lora_A` [r, in] and `lora_B` [out, r]. Its base may be of any precision."""

import numpy as np

from common.errors import UserError
from gpt2_jittor.model.layers import Conv1D
from gpt2_jittor.ops.lora_linear import lora_linear, low_rank
from gpt2_jittor.ops.matmul import in_type_of
from gpt2_jittor.runtime.backend import jt
from lora.config import LayerSettings
from lora.keys import B_BIAS, A, B
from lora.layers import LoraLayer, LoraMatrix
from lora.problems import PARTS, changes_base
from lora.starts import initial_matrices, taken_from


class LoraLinear(LoraLayer):
    """A projection; of c_attn's columns, only some parts may have matrices (`LayerSettings.qkv`)."""

    names = (A.removeprefix("."), B.removeprefix("."))
    _part = None  # [out, r], 1 where B may be other than zero; None: everywhere

    @classmethod
    def from_base(cls, base, settings: LayerSettings, generator: np.random.Generator) -> "LoraLinear":
        """As of `LoraLayer`. A start that takes its matrices from the weight leaves `base` as it is, and wraps another
        layer with what is left of the weight."""
        layer = super().from_base(base, settings, generator)
        if settings.bias:
            layer.lora_B.bias = jt.zeros((base.shape[1],))
        return layer

    @classmethod
    def sides(cls, base) -> tuple[int, int]:
        """How many numbers go in and come out."""
        return base.shape

    @classmethod
    def shapes(cls, base, settings: LayerSettings) -> dict[str, tuple[int, ...]]:
        """As of `LoraLayer`, with B's bias."""
        bias = {B_BIAS.removeprefix("."): (base.shape[1],)} if settings.bias else {}
        return super().shapes(base, settings) | bias

    def begin(self, settings: LayerSettings, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A and B at the start: each part's A below the other's, its B in columns and rows of its own."""
        if changes_base(settings.start):
            if self.is_frozen:
                start = f"init_lora_weights {settings.start}"
                raise UserError(f"{start} changes the base, which is kept in fewer bits: load it in float32")
            weight = self.weight.float32().numpy()
            a, b = taken_from(weight, settings)
            left = weight - (settings.scaling * (b @ a)).T
            self.base_layer = Conv1D.sharing(in_type_of(self.weight, left), self.bias)
            return a, b
        inputs, outputs = self.base_layer.shape
        a, b = np.zeros((settings.rows, inputs)), np.zeros((outputs, settings.rows))
        part = np.zeros(b.shape, np.float32)
        for number, columns in enumerate(_columns(settings.qkv, outputs)):
            rows = slice(number * settings.rank, (number + 1) * settings.rank)
            count = columns.stop - columns.start
            a[rows], b[columns, rows] = initial_matrices(inputs, count, settings.rank, generator, settings.start)
            part[columns, rows] = 1
        if settings.qkv:
            self._part = jt.array(part).stop_grad()  # else what comes of it lives as long as it does
        return a, b

    def keep_matrices(self, a: np.ndarray, b: np.ndarray) -> None:
        """`lora_A.weight` and `lora_B.weight`."""
        self.lora_A, self.lora_B = LoraMatrix(a), LoraMatrix(b)

    def matrices(self) -> tuple:
        """A and B. Where a part has no matrices, B is zero, and no gradient gets there."""
        b = self.lora_B.weight
        return self.lora_A.weight, b if self._part is None else b * self._part

    def has_place_for(self, b: np.ndarray) -> bool:
        """Whether this B [out, r] is zero where this layer's has to be."""
        return self._part is None or not b[self._part.numpy() == 0].any()

    @property
    def held(self) -> int:
        """As of `AdapterLayer`: where a part has no matrices, B and its bias are zero."""
        if self._part is None or self.lora_B.weight.is_stop_grad():
            return 0
        part = self._part.numpy()
        return int((part == 0).sum() + self.has_bias * (part.max(1) == 0).sum())

    @property
    def has_bias(self) -> bool:
        """Whether B has one."""
        return hasattr(self.lora_B, "bias")

    def adapter_parameters(self) -> dict:
        """The matrices, B's bias and DoRA's magnitude."""
        bias = {B_BIAS.removeprefix("."): self.lora_B.bias} if self.has_bias else {}
        return super().adapter_parameters() | bias

    def execute(self, x, activation=None):
        """With z = activation(x), x float32 [..., in] → [..., out]: g · (z W + s · dropout(z) Aᵀ Bᵀ) + bias.

        Dropout is on in training only; PEFT's DoRA drops out what goes to W as well where g is not 1, which is the same
        on average. A merged layer costs what its base does.
        """
        base = self.base_layer
        if self.merged:
            return base(x, activation)
        p = self.dropout if self.is_training() else 0.0
        a, b = self.matrices()
        if not isinstance(base, Conv1D):
            z = x if activation is None else activation(x)
            return base(z) + low_rank(z, a, b, self.scaling, p)
        bias = self._bias_with(self.scaling)
        return lora_linear(x, base.weight, bias, a, b, self.scaling, p, activation, self.factor())

    def merge(self) -> None:
        """Puts what the adapter adds into the base's weight and bias, in place. Does nothing where it is merged."""
        if not self.merged:
            self._write(self.merged_weight(), self._bias_with(self.scaling))

    def unmerge(self) -> None:
        """Takes it out again: what was there before, to rounding. Does nothing where it is not merged."""
        if self.merged:
            self._write(self.unmerged_weight(), self._bias_with(-self.scaling))

    def _bias_with(self, scaling: float):
        """The base's bias and `scaling` times B's."""
        return self.bias + self._seen(self.lora_B.bias) * scaling if self.has_bias else self.bias

    def _seen(self, bias):
        return bias if self._part is None else bias * self._part.max(1)

    def _write(self, weight, bias) -> None:
        for value, new in ((self.weight, weight), (self.bias, bias)):
            trained = not value.is_stop_grad()
            value.assign(new.detach())
            value.start_grad() if trained else value.stop_grad()
        self.merged = not self.merged


def _columns(parts: tuple[str, ...] | None, outputs: int) -> list[slice]:
    """Where c_attn's parts lie among its columns, a third for each; all columns where there are none."""
    third = outputs // len(PARTS)
    starts = [PARTS.index(part) * third for part in parts or ()]
    return [slice(start, start + third) for start in starts] or [slice(0, outputs)]
