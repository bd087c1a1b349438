"""What all layers of an adapter answer, and what all of LoRA's have (Hu et al. 2021):

    x [.., in] ──┬── base_layer [in, out] (frozen) ─────────── + ── · g [out] ── y [.., out]
                 └── dropout ── A [r, in] ── B [out, r] ── · s ─┘

s is α/r. g is DoRA's, and 1 without it: m / ‖W + s (B A)ᵀ‖ for each column, with a trained magnitude m [out]
(Liu et al. 2024). As in PEFT no gradient goes through the norm, the paper's section 4.3.
"""

import numpy as np

from gpt2_jittor.model.layers import Layer
from gpt2_jittor.ops.lora_norms import lora_norms
from gpt2_jittor.runtime.backend import jt
from lora.config import LayerSettings
from lora.starts import initial_matrices


class AdapterLayer(Layer):
    """A layer that stands in the place of another, `base_layer`, and has parameters of its own beside its weights.

    A model finds the base's weight and bias at their usual paths. `merged`: what the adapter adds is inside the
    base's weight, and is not added again.
    """

    merged = False
    held = 0  # of its trained numbers, how many stay zero

    def __init__(self, base: Layer):
        self.base_layer = base

    @property
    def weight(self):
        """The base's weight. A quantised base has none."""
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
    def quantized(self) -> str:
        """What the base's weights have become."""
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


class LoraLayer(AdapterLayer):
    """A layer with A [r, in] and B [out, r] beside its weight; how both are called is the subclass's.

    Its weight is [in, out], unless `transposed`.
    """

    names: tuple[str, str]  # of A and B below this layer
    plain: type  # the class of the layer that a merged one is
    transposed = False

    @classmethod
    def from_base(cls, base: Layer, settings: LayerSettings, generator: np.random.Generator) -> "LoraLayer":
        """Wraps `base` with matrices that begin as `settings.start` says (`lora/starts.py`)."""
        layer = cls(base)
        layer.scaling, layer.dropout = settings.scaling, settings.dropout
        layer.keep_matrices(*layer.begin(settings, generator))
        if settings.magnitude:
            layer.take_squares()
            layer.lora_magnitude_vector = jt.array(layer.norms().numpy())
        return layer

    def take_squares(self) -> None:
        """Sums the squares of each column of its weight, as DoRA's norms need them: where it is new, or changes."""
        axes, weight = "oi,oi->o" if self.transposed else "io,io->o", self.weight.float32().numpy()
        self._squares = jt.array(np.einsum(axes, weight, weight, dtype=np.float64).astype(np.float32))  # [out]

    @classmethod
    def shapes(cls, base: Layer, settings: LayerSettings) -> dict[str, tuple[int, ...]]:
        """What `from_base` would make, as A [r, in] and B [out, r] by their names below this layer. Makes nothing."""
        inputs, outputs = cls.sides(base)
        return dict(zip(cls.names, ((settings.rows, inputs), (outputs, settings.rows)), strict=True))

    @classmethod
    def sides(cls, base: Layer) -> tuple[int, int]:
        """How many numbers go in and come out."""
        sides = tuple(base.weight.shape)
        return sides[::-1] if cls.transposed else sides

    def begin(self, settings: LayerSettings, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A and B at the start."""
        return initial_matrices(*self.sides(self.base_layer), settings.rank, generator, settings.start)

    def keep_matrices(self, a: np.ndarray, b: np.ndarray) -> None:
        """Makes parameters of A [r, in] and B [out, r], under PEFT's names."""
        raise NotImplementedError

    def matrices(self) -> tuple:
        """A [r, in] and B [out, r], as this computes with them."""
        raise NotImplementedError

    @property
    def has_magnitude(self) -> bool:
        """Whether this is DoRA's."""
        return hasattr(self, "lora_magnitude_vector")

    def adapter_parameters(self) -> dict:
        """The two matrices, and DoRA's magnitude."""
        more = {"lora_magnitude_vector": self.lora_magnitude_vector} if self.has_magnitude else {}
        return {name: self._at(name) for name in self.names} | more

    def norms(self):
        """‖W + s (B A)ᵀ‖ of each column, [out]."""
        return lora_norms(self.weight, *self.matrices(), self._squares, self.scaling, self.transposed)

    def factor(self):
        """DoRA's g [out], None without it."""
        return self.lora_magnitude_vector / self.norms() if self.has_magnitude else None

    def delta(self):
        """s · B A as it stands in the weight: [in, out], or [out, in] where that is `transposed`; float32."""
        a, b = self.matrices()
        product = jt.matmul(b, a) if self.transposed else jt.matmul(a.transpose(), b.transpose())
        return product * self.scaling

    def merged_weight(self):
        """g · (W + s (B A)ᵀ), what merging makes of the weight. Keeps g, which cannot be found from it again."""
        with jt.no_grad():
            self._merged_factor = self._row(self.factor())
            merged = self.weight + self.delta()
            return merged if self._merged_factor is None else merged * self._merged_factor

    def unmerged_weight(self):
        """The weight before `merged_weight`, to rounding."""
        with jt.no_grad():
            weight = self.weight if self._merged_factor is None else self.weight / self._merged_factor
            return weight - self.delta()

    def merge(self) -> None:
        """Puts a layer with `merged_weight` in the base's place: the base may be a head's too, which is to stay."""
        if not self.merged:
            merged = self.plain.sharing(self.merged_weight().detach())
            self._original, self.base_layer, self.merged = (self.base_layer,), merged, True

    def unmerge(self) -> None:
        """Puts the base back, exactly."""
        if self.merged:
            (self.base_layer,), self.merged = self._original, False

    def _row(self, factor):
        """g so that it multiplies the weight."""
        if factor is None:
            return None
        return factor.unsqueeze(1) if self.transposed else factor.unsqueeze(0)

    def _at(self, name: str):
        value = self
        for part in name.split("."):
            value = getattr(value, part)
        return value


class LoraMatrix(jt.nn.Module):
    """One of the two small matrices, oriented as torch's Linear: [out, in]."""

    def __init__(self, values: np.ndarray):
        self.weight = jt.array(values.astype(np.float32))
