"""What is served: one base, the adapters that share it, and models of their own for those that cannot.

A plain adapter stands beside others on the base (`lora/shared.py`). One that changes more than projections, a
classifier for instance, is merged into a copy of the base, which costs as much memory as the base does.
"""

import re
import time
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from generation.loading import check_task, find_task, options_for
from generation.running import Running
from gpt2_jittor.model.pretrained import GPT2PreTrained
from lora.load import load
from lora.shared import SharedAdapters, why_not
from lora.source import ModelSource, find
from serving.prefixes import Prefixes
from serving.work import Served

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Precision:
    """How the weights are kept: `int8`, else in `precision`."""

    int8: bool = False
    precision: str = "fp32"


class Loaded:
    """A model in memory, with what is being continued with it, and the adapters that stand on it side by side."""

    def __init__(self, model: GPT2PreTrained, most_rows: int, cache_tokens: int):
        self.model = model
        self.adapters: SharedAdapters | None = None
        self.running = Running(model, self._choose, most_rows)
        self.prefixes = Prefixes(cache_tokens)

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
        self.prefixes.forget(key)
        self.running.renew()


@dataclass(frozen=True)
class Place:
    """Where a served model is computed: by which model, and with which of its adapters."""

    loaded: Loaded
    adapter: str | None


class Models:
    """All that is served, by name, the base first."""

    def __init__(self, base: ModelSource, name: str, how: Precision, most_rows: int, cache_tokens: int):
        self._source, self._how, self._sizes = base, how, (most_rows, cache_tokens)
        self._loaded = self._keep(load(base, how.int8, how.precision))
        self.served = {check_name(name): self._described(name, base, None)}
        self.places = {name: Place(self._loaded, None)}
        self._count = 0

    @property
    def base(self) -> str:
        """The base's name."""
        return next(iter(self.served))

    def load(self, name: str, folder: Path, ignore_base: bool = False) -> Served:
        """Reads an adapter, or a run's folder, of this base. Raises UserError where it is damaged or another's."""
        if check_name(name) in self.served:
            raise UserError(f"there is a model {name!r} already: choose another name, or unload it first")
        source = find(str(self._source.directory), folder, ignore_base)
        served = self._described(name, source, self.base)
        grown = source.config.vocab_size > self._source.config.vocab_size
        if why_not(source.adapter) or source.classifies or grown:
            model = load(source.with_labels(served.task.labels), self._how.int8, self._how.precision)
            place = Place(self._keep(model), None)
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

    def _keep(self, model: GPT2PreTrained) -> Loaded:
        return Loaded(model, *self._sizes)

    def _described(self, name: str, source: ModelSource, parent: str | None) -> Served:
        run = source.arguments
        task = find_task(source, source.task or ("classify" if source.classifies else "text"), run)
        check_task(source, task)
        options, _ = options_for(source, task, {})
        positions = source.config.n_positions
        longest = min(positions, run.get("max_length") or positions)
        vocabulary = max(source.config.vocab_size, len(source.tokenizer))
        return Served(name, task, source.tokenizer, options, positions, longest, vocabulary, parent, int(time.time()))


def check_name(name: str) -> str:
    """A model's name, as requests give it. Raises UserError for one that could not stand in an address."""
    if not NAME.fullmatch(name):
        raise UserError(f"{name!r:.80} is no name for a model: letters, digits, '.', '_' and '-', at most 64 of them")
    return name
