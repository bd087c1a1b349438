"""The error that the user can mend: one line that says what is wrong, where, and what to do.

A command prints it and exits with status 2 (`common.command`); everything else that is raised is our fault
and ends as `common.unexpected` says.
"""

import contextlib
from collections.abc import Iterator

TOLD = 8  # faults in one message: more would not be read


class UserError(Exception):
    """A fault in the arguments, files or data that were given. Its text is one line."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))


class Faults:
    """Gathers user errors, so that all of them are heard of at once."""

    def __init__(self):
        self.messages: list[str] = []

    @contextlib.contextmanager
    def gathered(self) -> Iterator[None]:
        """Takes up the `UserError` that ends the block, and goes on behind it."""
        try:
            yield
        except UserError as error:
            if str(error) not in self.messages:  # one missing folder, met twice
                self.messages.append(str(error))

    def tell(self) -> None:
        """Raises one UserError with what was gathered, if anything was."""
        if self.messages:
            more = len(self.messages) - TOLD
            raise UserError("; ".join(self.messages[:TOLD]) + (f"; and {more} more" if more > 0 else ""))
