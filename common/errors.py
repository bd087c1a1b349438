"""The error that the user can mend: one line that says what is wrong, where, and what to do.

A command prints it and exits with status 2 (`common.command`); everything else that is raised is our fault
and ends as `common.unexpected` says. Libraries speak of their parameters, `num_beams`; whoever typed a command reads of
its options, `--num-beams`.
"""

import contextlib
import string
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

SHOWN = 8  # errors in one message: more would not be read


class UserError(Exception):
    """A fault in the arguments, files or data that were given. Its text is one line."""

    def __init__(self, message: str):
        super().__init__(_one_line(message))

    def with_names(self, name_of: Callable[[str], str]) -> str:
        """The message with each parameter called what `name_of` makes of its name."""
        return str(self)


class ParameterError(UserError):
    """A fault in parameters. Its text names them as Python does; a command names its options instead.

    `template` is written as for `str.format`: a field with a value among `values` stands for that, which may be another
    error; any other field is a parameter's name.

        ParameterError("{top_p} must be between 0 and 1, not {value}", value=1.5)
        # top_p must be between 0 and 1, not 1.5
    """

    def __init__(self, template: str, /, *args: Any, **values: Any):
        self._message = (template, args, values)
        super().__init__(self.with_names(str))

    def __reduce__(self) -> tuple:
        """As it was made: its text alone would be taken for a template."""
        return _remade, self._message

    def with_names(self, name_of: Callable[[str], str]) -> str:
        """The message with each parameter called what `name_of` makes of its name, in the errors inside it as well."""
        template, args, values = self._message
        return _one_line(_Formatter(name_of).vformat(template, args, values))


def _remade(template: str, args: tuple, values: dict[str, Any]) -> ParameterError:
    return ParameterError(template, *args, **values)


def joined(errors: Sequence[UserError], separator: str = "; ") -> ParameterError:
    """One error that says what several say."""
    return ParameterError(separator.join(["{}"] * len(errors)), *errors)


def listed(names: Iterable[str]) -> str:
    """A template that names parameters: `{lora_r}, {lora_alpha}`."""
    return ", ".join(f"{{{name}}}" for name in names)


class ErrorCollector:
    """Gathers user errors, so that all of them are heard of at once."""

    def __init__(self):
        self.errors: list[UserError] = []

    @contextlib.contextmanager
    def collect(self) -> Iterator[None]:
        """Takes up the `UserError` that ends the block, and goes on behind it."""
        try:
            yield
        except UserError as error:
            if str(error) not in map(str, self.errors):  # one missing folder, met twice
                self.errors.append(error)

    def raise_all(self) -> None:
        """Raises one UserError with what was gathered, if anything was."""
        if len(self.errors) > SHOWN:
            more = UserError(f"and {len(self.errors) - SHOWN} more")
            raise joined([*self.errors[:SHOWN], more])
        if self.errors:
            raise joined(self.errors)


class _Formatter(string.Formatter):
    """`str.format` in which an unknown field is a parameter. Values are not looked into: braces in them are braces."""

    def __init__(self, name_of: Callable[[str], str]):
        self.name_of = name_of

    def get_value(self, key: int | str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """A parameter's name where no value has that key; an error's text, with its parameters named."""
        if isinstance(key, str) and key not in kwargs:
            return self.name_of(key)
        value = super().get_value(key, args, kwargs)
        return value.with_names(self.name_of) if isinstance(value, UserError) else value


def _one_line(message: str) -> str:
    return " ".join(message.split())
