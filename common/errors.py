"""The error that the user can mend: one line that says what is wrong, where, and what to do.

A command prints it and exits with status 2 (`common.command`); everything else that is raised is our fault
and keeps its traceback.
"""


class UserError(Exception):
    """A fault in the arguments, files or data that were given. Its text is one line."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))
