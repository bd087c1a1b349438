"""What single tokens spell: their bytes, their names in log-probabilities, and where they stand in a text."""

import codecs
from collections.abc import Iterable, Iterator
from typing import Any


def _byte_characters() -> dict[str, int]:
    """GPT-2's characters for bytes: a printable byte's own, else the next of 256 and up (openai/gpt-2, encoder.py)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(others)}


BYTES = _byte_characters()


class Pieces:
    """The tokens of one tokenizer."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        self._added = {index: token.content for index, token in tokenizer.added_tokens_decoder.items()}
        self._known: dict[int, bytes] = {}  # at most the vocabulary

    def data(self, token: int) -> bytes:
        """The bytes that a token spells, a special token's name for such; none for an id without a token."""
        if token not in self._known:
            self._known[token] = self._data(token)
        return self._known[token]

    def name(self, token: int) -> str:
        """The token as text; where its bytes are no whole characters, as OpenAI spells that: `bytes:\\xe2\\x80`."""
        data = self.data(token)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)

    def text(self, tokens: Iterable[int]) -> str:
        """The text of tokens, special ones spelled out."""
        return b"".join(map(self.data, tokens)).decode("utf-8", "replace")

    def offsets(self, tokens: Iterable[int]) -> Iterator[int]:
        """Where each token begins in `text(tokens)`; of one that begins within a character, where that character is."""
        place = Offset(self)
        for token in tokens:
            yield place.characters
            place.move(token)

    def _data(self, token: int) -> bytes:
        if token in self._added:
            return self._added[token].encode("utf-8")
        piece = self._tokenizer.convert_ids_to_tokens(token)
        if piece is None:
            return b""
        if all(character in BYTES for character in piece):
            return bytes(BYTES[character] for character in piece)
        return self._tokenizer.decode([token]).encode("utf-8")  # another tokenizer than GPT-2's


class Offset:
    """Where the next token of a text begins: behind so many whole characters of those that came before."""

    def __init__(self, pieces: Pieces):
        self._pieces, self._decoder = pieces, codecs.getincrementaldecoder("utf-8")("replace")
        self.characters = 0

    def move(self, token: int) -> None:
        """Goes on behind a token."""
        self.characters += len(self._decoder.decode(self._pieces.data(token)))
