"""Which models a server is told to serve: a base, and adapters on it by name."""

from dataclasses import dataclass
from pathlib import Path

from common.errors import ParameterError
from generation.loading import ModelOptions
from lora.source import ModelSource, find, find_on
from serving.options import NAME


@dataclass(frozen=True)
class Sources:
    """What is to be read: the base, called `name`, and the adapters on it by theirs."""

    name: str
    base: ModelSource
    adapters: dict[str, ModelSource]


@dataclass(frozen=True)
class ServedModels(ModelOptions):
    """The base and the adapters on it. `adapter`: `RUN`, which is called as its folder, or `NAME=RUN`; any number."""

    adapter: tuple[str, ...] = ()  # typed as `--adapter`, again for each

    def adapters(self) -> dict[str, Path]:
        """The adapters' folders by name. Raises UserError for a name that is none, or that two have."""
        found: dict[str, Path] = {}
        for given in self.adapter:
            name, folder = named(given)
            if name in found:
                raise ParameterError("{adapter}: two are called {0}: name one, {adapter} other={1}", name, folder)
            found[name] = folder
        return found

    def sources(self) -> Sources:
        """All of it found and checked. The base is `model`, else the first adapter's own.

        Raises UserError for what is missing, damaged, or does not fit.
        """
        folders = self.adapters()
        if self.model is None and folders:
            first = find(None, next(iter(folders.values())), self.ignore_base)
            said = first.arguments.get("model") or first.adapter.config.base_model_name_or_path
            name, base = said or str(first.directory), find(str(first.directory))
        else:
            name, base = self.model or "nano", find(self.model)
        found = {each: find_on(base.base, folder, self.ignore_base) for each, folder in folders.items()}
        name = Path(name).name if NAME.fullmatch(Path(name).name) else "base"
        if name in found:
            raise ParameterError("{adapter}: {0} is what the base is called: name it, {adapter} other=RUN", name)
        return Sources(name, base, found)


def named(given: str) -> tuple[str, Path]:
    """The name and the folder of `NAME=RUN`, or of a folder. Raises UserError where the name cannot be one."""
    name, equals, folder = given.partition("=")
    if not equals or not NAME.fullmatch(name) or Path(given).is_dir():
        folder = given
        name = Path(given).resolve().name
    if not folder:
        raise ParameterError("{adapter} {0!r} names no folder: give NAME=RUN", given)
    if not NAME.fullmatch(name):
        raise ParameterError(
            "{adapter}: {0!r} cannot be a model's name (letters, digits, '.', '_', '-'): give NAME={1}", name, given
        )
    return name, Path(folder)
