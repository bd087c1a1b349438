"""Several adapters on one model: kept on the host, one of them or a weighted sum of them active at a time."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from common.errors import UserError
from gpt2_jittor.model.pretrained import GPT2PreTrained
from lora.adapter import assign, check_matrices, check_tensors, embeddings_of, fitting, peft_keys
from lora.attach import attach, detach, is_merged, mark_trainable
from lora.combination import combine
from lora.files import Adapter, check_base, read_adapter, write_adapter


class Adapters:
    """The adapters of a plain model, for use, not for training.

    adapters.load("runs/dialogue", "dialogue"); adapters.load("runs/verse", "verse")
    adapters.use("verse"); adapters.use({"dialogue": 0.7, "verse": 0.3}); adapters.use(None)
    """

    def __init__(self, model: GPT2PreTrained):
        if model.adapter_config is not None:
            raise UserError("this model has an adapter already; load the base model again")
        self.model = model
        self.active: str | dict[str, float] | None = None
        self._stored: dict[str, Adapter] = {}
        self._modules: dict | None = None  # the base's own, while an adapter is active
        self._values: dict[str, np.ndarray] = {}  # those of the base's parameters that the adapter overwrote

    @property
    def names(self) -> list[str]:
        """What was loaded, in that order."""
        return list(self._stored)

    def load(self, directory: str | Path, name: str, ignore_base: bool = False) -> None:
        """Reads an adapter under a name of your choice; a name that is taken gets the new one. None becomes active.

        Raises UserError where files are missing or damaged, where it was trained on another base, unless
        `ignore_base` says that this does not matter, and where a tensor does not fit this one.
        """
        if name == self.active or (isinstance(self.active, dict) and name in self.active):
            raise UserError(f"adapter {name!r} is in use; use another one, or none, before it is replaced")
        adapter = read_adapter(directory)
        kind = adapter.config.task_type
        if kind is not None and (kind == "SEQ_CLS") != hasattr(self.model, "score"):
            raise UserError(f"{directory} is of another task type, {kind}: load its kind of model")
        self._check_unmerged()
        self._take_out()
        try:
            adapter = self._put_in(adapter, directory)
            check_base(directory, adapter, self.model.base, ignore_base)
            self._take_out()
            self._stored[name] = adapter
        finally:
            self.use(self.active)

    def use(self, which: str | Mapping[str, float] | None) -> None:
        """Makes an adapter active, or a weighted sum {name: weight} of several, or, with None, the base alone.

        A sum is exact: Σ weight · scaling · B A. Raises UserError for unknown names, and for sums of adapters
        that train more than LoRA's matrices.
        """
        adapter = None if which is None else self._find(which)
        self._check_unmerged()
        self._take_out()
        if adapter is not None:
            self._put_in(adapter, str(which))
        self.active = dict(which) if isinstance(which, Mapping) else which

    def save(self, directory: str | Path, weights: Mapping[str, float]) -> None:
        """Writes a weighted sum as one adapter, for `load_adapter` and for PEFT."""
        adapter = self._find(weights)
        write_adapter(directory, adapter.config, adapter.stored, adapter.base)

    def _find(self, which: str | Mapping[str, float]) -> Adapter:
        if isinstance(which, Mapping):
            # each was compared with the model's own base, where that is known, or was not to be
            return combine(self._stored, which, ignore_base=self.model.base is not None)
        if which not in self._stored:
            raise UserError(f"there is no adapter {which!r}; loaded are {', '.join(self._stored) or 'none'}")
        return self._stored[which]

    def _put_in(self, adapter: Adapter, source: str | Path) -> Adapter:
        """Makes an adapter active; returns what of it this model lacks."""
        adapter = fitting(self.model, adapter, source)
        check_matrices(self.model, adapter, source)
        own = {name for name, _ in self.model.named_parameters()}
        self._modules = attach(self.model, adapter.config)
        try:
            check_tensors(self.model, adapter, source)
        except UserError:
            self._take_out()
            raise
        written = [*peft_keys(self.model), *embeddings_of(self.model, adapter)]
        # a layer that is saved whole was replaced: writing it again is harmless, and it needs no second rule
        self._values = {name: self.model.parameter(name).numpy() for name in written if name in own}
        assign(self.model, adapter)
        mark_trainable(self.model, False)
        return adapter

    def _take_out(self) -> None:
        if self._modules is None:
            return
        detach(self.model, self._modules)
        for name, values in self._values.items():
            self.model.parameter(name).assign(values)
            self.model.parameter(name).stop_grad()
        self._modules, self._values = None, {}

    def _check_unmerged(self) -> None:
        if is_merged(self.model):
            raise UserError("the adapter in use is merged into the weights; unmerge it before another one is used")
