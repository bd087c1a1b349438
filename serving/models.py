"""What is served: one base, the adapters that share it, and models of their own for those that cannot.

A plain adapter stands beside others on the base (`lora/shared.py`). One that changes more than projections, a
classifier for instance, is merged into a copy of the base, which costs as much memory as the base does.
"""

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from generation.loading import ModelOptions, check_task, find_task, options_for
from generation.prefixes import Prefixes
from generation.running import Running
from gpt2_jittor.model.pretrained import GPT2PreTrained
from lora.load import load
from lora.shared import SharedAdapters, why_not
from lora.source import ModelSource, find_on
from serving.adapters import Sources
from serving.work import Served

# how tokens are drawn where neither a request nor the model's folder says it
API_DEFAULTS = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


class Loaded:
    """A model in memory, with what is being continued with it, and the adapters that stand on it side by side."""

    def __init__(self, model: GPT2PreTrained, most_rows: int, cache_tokens: int):
        self.model = model
        self.adapters: SharedAdapters | None = None
        self.running = Running(model, most_rows, Prefixes(cache_tokens), self._choose)

    def _choose(self, names) -> None:
        if self.adapters is not None:
            self.adapters.choose(names)

    def add(self, key: str, adapter) -> None:
        """Puts a plain adapter beside the others."""
        self.adapters = self.adapters or SharedAdapters(self.model)
        self.adapters.add(key, adapter)
        self.running.renew()

    def remove(self, key: str) -> None:
        """Takes an adapter out; nothing may be in progress with it."""
        self.adapters.remove(key)
        self.running.prefixes.forget(key)
        self.running.renew()


@dataclass(frozen=True)
class Place:
    """Where a served model is computed: by which model, and with which of its adapters."""

    loaded: Loaded
    adapter: str | None


class Models:
    """All that is served, by name, the base first."""

    def __init__(self, sources: Sources, how: ModelOptions, most_rows: int, cache_tokens: int):
        self._source, self._how, self._sizes, self.most_rows = sources.base, how, (most_rows, cache_tokens), most_rows
        self._loaded = self._read(sources.base)
        self.served = {sources.name: self._described(sources.name, sources.base, None)}
        self.places = {sources.name: Place(self._loaded, None)}
        self._count = 0
        for name, source in sources.adapters.items():
            self._add(name, source)

    @property
    def base(self) -> str:
        """The base's name."""
        return next(iter(self.served))

    def load(self, name: str, folder: Path) -> Served:
        """Reads an adapter, or a run's folder, of this base. Raises UserError where it is damaged or another's."""
        if name in self.served:
            raise UserError(f"there is a model {name!r} already: choose another name, or unload it first")
        return self._add(name, find_on(self._source.base, folder, self._how.ignore_base))

    def _add(self, name: str, source: ModelSource) -> Served:
        served = self._described(name, source, self.base)
        grown = source.config.vocab_size > self._source.config.vocab_size
        if why_not(source.adapter) or source.classifies or grown:
            place = Place(self._read(source.with_labels(served.task.labels)), None)
        else:
            self._count += 1
            place = Place(self._loaded, f"{name}#{self._count}")
            self._loaded.add(place.adapter, source.adapter)
        self.served = self.served | {name: served}
        self.places = self.places | {name: place}
        return served

    def unload(self, name: str) -> Place:
        """Serves an adapter no more; `Loaded.remove` then takes it out. Raises UserError for the base, and for none."""
        if name == self.base:
            raise UserError(f"{name!r} is the base, which stays")
        if name not in self.served:
            raise UserError(f"there is no adapter {name!r}")
        place = self.places[name]
        self.served = {each: served for each, served in self.served.items() if each != name}
        self.places = {each: there for each, there in self.places.items() if each != name}
        return place

    def _read(self, source: ModelSource) -> Loaded:
        return Loaded(load(source, self._how.weights, self._how.precision), *self._sizes)

    def _described(self, name: str, source: ModelSource, parent: str | None) -> Served:
        run = source.arguments
        task = find_task(source, source.task or ("classify" if source.classifies else "text"), run)
        check_task(source, task)
        options, _ = options_for(source, task, {})
        said = source.generation.settings() if task.kind.generates else {}
        if task.kind.generates:
            drawing = {name: said.get(name, default) for name, default in API_DEFAULTS.items()}
            options = dataclasses.replace(options, **drawing)
        positions = source.config.n_positions
        longest = min(positions, run.get("max_length") or positions)
        vocabulary = max(source.config.vocab_size, len(source.tokenizer))
        created, tokens = int(time.time()), said.get("max_new_tokens")
        return Served(name, task, source.tokenizer, options, positions, longest, vocabulary, parent, created, tokens)
