"""Which models a server is told to serve: a base, and adapters on it by name."""

from dataclasses import dataclass
from pathlib import Path

from common.errors import ParameterError
from generation.loading import ModelOptions
from serving.options import NAME


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
