"""What stands in the way of CUDA, in one line."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """What is wrong, and the command or the setting that mends it."""

    what: str
    mend: str

    def __str__(self) -> str:
        return f"{self.what}: {self.mend}"
