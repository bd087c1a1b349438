"""Text that ends where a stop string begins, whether it is shown as it comes or made in batches.

A stop string need not begin or end where a token does, so it is looked for in the text. Text that may turn out to be
its beginning is held back: what was shown is never part of a stop string.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from common.errors import ParameterError
from gpt2_jittor.checkpoint.tokenizer import TextStream

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class Stopper:
    """Passes pieces of text on, up to the first stop string.

    First is the string that is complete first, reading character by character: how the text was cut into pieces
    makes no difference. Raises UserError for an empty string, which every text holds.
    """

    def __init__(self, strings: Sequence[str]):
        if isinstance(strings, str):
            strings = [strings]
        if not all(strings):
            raise ParameterError("{stop} is an empty string, which would stop every text; give it some text")
        self.strings = list(strings)
        self.stopped = False
        self._held = ""

    def push(self, piece: str) -> tuple[str, bool]:
        """Takes one piece; returns the text that is certain now and whether a stop string was reached."""
        if self.stopped:
            return "", True
        text = self._held + piece
        # of those that end together the longest, which begins first
        ends = [(start + len(string), start) for string in self.strings if (start := text.find(string)) >= 0]
        if ends:
            self.stopped, self._held = True, ""
            return text[: min(ends)[1]], True
        certain = len(text) - self._pending(text)
        self._held = text[certain:]
        return text[:certain], False

    def flush(self) -> str:
        """Returns what was held back, where the text ends without a stop string."""
        text, self._held = self._held, ""
        return text

    def _pending(self, text: str) -> int:
        """How many of the last characters may be the beginning of a stop string."""
        longest = min(len(text), max(map(len, self.strings), default=1) - 1)
        return next(
            (size for size in range(longest, 0, -1) if any(s.startswith(text[-size:]) for s in self.strings)), 0
        )


class StoppedText:
    """Token ids in, text out, up to the first stop string: a `TextStream` before a `Stopper`."""

    def __init__(self, tokenizer: "PreTrainedTokenizerFast", strings: Sequence[str]):
        self._decoded, self._stopper = TextStream(tokenizer), Stopper(strings)

    def push(self, token_id: int) -> tuple[str, bool]:
        """Takes one id; returns the text that is certain now and whether a stop string was reached."""
        return self._stopper.push(self._decoded.push(token_id))

    def flush(self) -> str:
        """Returns what was held back, where the text ends without a stop string."""
        if self._stopper.stopped:
            return ""
        text, _ = self._stopper.push(self._decoded.flush())
        return text + self._stopper.flush()
