"""Plain adapters side by side on one model, for use: each row of a batch has its own, or none.

The base's products are made once for all rows, whatever adapters they have; to each row its own B A is added. Adapters
that change more than projections need a model of their own (`why_not`).
"""

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np

from common.errors import UserError
from gpt2_jittor.model.layers import Layer
from gpt2_jittor.model.lm import GPT2LMHeadModel
from gpt2_jittor.ops.lora_linear import low_rank
from gpt2_jittor.runtime.backend import jt
from lora.attach import replace
from lora.combination import more_than_matrices, paths
from lora.files import Adapter
from lora.keys import PREFIX, A, B
from lora.layers import AdapterLayer
from lora.matching import PROJECTIONS, is_called


class SharedAdapters:
    """The adapters of a model, by name. `choose` says which one each row has from then on."""

    def __init__(self, model: GPT2LMHeadModel):
        self._layers: dict[str, SharedLora] = {}
        self._ranks: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}  # A and scaled Bᵀ by adapter and path
        for path, layer in model.layers().items():
            if is_called(path, PROJECTIONS):
                self._layers[path] = SharedLora(layer)
                replace(model, path, self._layers[path])

    def add(self, name: str, adapter: Adapter) -> None:
        """Adds an adapter. Raises UserError where it needs a model of its own, or does not fit this one."""
        if reason := why_not(adapter):
            raise UserError(f"adapter {name!r} trains {reason}: it needs a model of its own")
        matrices = {}
        for path in paths(adapter):
            a, b = (adapter.tensors[f"{PREFIX}{path}{kind}"] for kind in (A, B))
            layer = self._layers.get(path)
            if layer is None or (a.shape[1], b.shape[0]) != layer.shape:
                raise UserError(f"adapter {name!r} does not fit this model: {path} is of another size, or is not there")
            matrices[path] = a, np.ascontiguousarray(b.T) * np.float32(adapter.config.for_path(path).scaling)
        self._ranks[name] = matrices
        self._give_out()

    def remove(self, name: str) -> None:
        """Takes an adapter out again."""
        del self._ranks[name]
        self._give_out()

    def choose(self, names: Sequence[str | None]) -> None:
        """Which adapter each row of the next batches has; None is the base alone."""
        for layer in self._layers.values():
            layer.choose(names)

    def _give_out(self) -> None:
        for path, layer in self._layers.items():
            layer.keep({name: matrices[path] for name, matrices in self._ranks.items() if path in matrices})


class SharedLora(AdapterLayer):
    """A projection, and what each row's own adapter adds to it. Its base may be of any precision."""

    def __init__(self, base: Layer):
        super().__init__(base)
        self.keep({})

    @property
    def shape(self) -> tuple[int, int]:
        """How many numbers go in and come out."""
        return self.base_layer.shape

    @property
    def is_for_kernel(self) -> bool:
        """The decoding kernel knows it."""
        return True

    def keep(self, matrices: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
        """The adapters' A [r, in] and scaled Bᵀ [r, out], by name; they are kept below each other."""
        inputs, outputs = self.shape
        a, b = [np.zeros((1, inputs), np.float32)], [np.zeros((1, outputs), np.float32)]  # an array has a row at least
        self._spans, end = {}, 1
        for name, (own_a, own_b) in matrices.items():
            self._spans[name] = (end, end := end + len(own_a))
            a.append(own_a)
            b.append(own_b)
        # within a tuple Jittor finds no parameters
        self.row_lora = (jt.array(np.concatenate(a)), jt.array(np.concatenate(b)))
        self.choose([None])

    def choose(self, names: Sequence[str | None]) -> None:
        """As of `SharedAdapters`. row_spans: each row's ranks, int32 [rows, 2]."""
        self.row_spans = np.array([self._spans.get(name, (0, 0)) for name in names], np.int32)

    def execute(self, x, activation=None):
        """base(x) + activation(x) Aᵀ (s Bᵀ), each row with its own A and B.

        x float32 [batch, time, in] → [batch, time, out].
        """
        y = self.base_layer(x, activation)
        if not self.row_spans.any():
            return y
        z = x if activation is None else activation(x)
        added = [self._added(z[rows], start, end) for rows, start, end in self._runs()]
        return y + (jt.concat(added, dim=0) if len(added) > 1 else added[0])

    def _runs(self) -> Iterator[tuple[slice, int, int]]:
        """Rows with the same ranks that stand side by side, and these."""
        first = 0
        for (start, end), rows in groupby(map(tuple, self.row_spans.tolist())):
            last = first + len(list(rows))
            yield slice(first, last), start, end
            first = last

    def _added(self, z, start: int, end: int):
        if start == end:
            return jt.zeros((*z.shape[:-1], self.shape[1]))
        a, b = (each[start:end] for each in self.row_lora)
        return low_rank(z, a, b.transpose(), 1.0)


def why_not(adapter: Adapter) -> str:
    """What an adapter changes for which a model must be its own; "" where it can stand beside others."""
    brings = [("embeddings (a resized vocabulary)", adapter.embeddings)]
    if more := [kind for kind, there in (*more_than_matrices(adapter), *brings) if there]:
        return " and ".join(more)
    return next((path for path in paths(adapter) if not is_called(path, PROJECTIONS)), "")
