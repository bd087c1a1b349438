"""Keys and values of the tokens so far, so that a new token costs one token's work.

A layer's keys are one array [slots, capacity, width], larger than its tokens need, and a table tells each row of the
batch in which slot each of its tokens stands. So a token is written once, where it stays: rows that are moved, doubled
or left out (beams, ended texts) change the table alone. Only when the capacity runs out, or when the composed operators
need keys side by side, are they copied into new arrays.
"""

import numpy as np

from gpt2_jittor.runtime.backend import jt

PAD = -1  # in the table: a token that nobody sees
LEAST_GROWTH = 32  # tokens


class KVCache:
    """One model's keys and values, and the table of the tokens they belong to."""

    def __init__(self):
        self._layers: dict[int, tuple] = {}  # (keys, values) of each
        self._table = np.zeros((0, 0), np.int32)  # [batch, length]: the slot of a row's token, or PAD
        self._offset = 0  # token j of every row stands at offset + j of its slot
        self._slots = self._capacity = 0
        self.step = None  # the kernel that decodes with this cache, once it is prepared; False: there is none

    @property
    def length(self) -> int:
        """Tokens held, pads included."""
        return self._table.shape[1]

    @property
    def rows(self) -> int:
        """The batch."""
        return len(self._table)

    @property
    def offset(self) -> int:
        """Where in its slot a row's first token stands."""
        return self._offset

    @property
    def layers(self) -> dict[int, tuple]:
        """The keys and values of each layer, [slots, capacity, width]."""
        return self._layers

    def extend_mask(self, mask: np.ndarray) -> np.ndarray:
        """Announces new tokens to `append`, with their mask [batch, new] → the mask of all tokens, [batch, all]."""
        if self._layers and not self._is_plain():
            self._rearrange(self.length)
        rows = np.arange(len(mask), dtype=np.int32)[:, None]
        new = np.where(mask != 0, rows, PAD).astype(np.int32)
        self._table = np.concatenate([self._table, new], axis=1) if self.length else new
        self._slots, self._capacity = self._table.shape
        return (self._table != PAD).astype(np.int32)

    def append(self, layer: int, keys, values):
        """Takes up a layer's new keys and values, [batch, new, width] → all of them, [batch, all, width]."""
        if layer in self._layers:
            old_keys, old_values = self._layers[layer]
            keys = jt.concat([old_keys, keys], dim=1)
            values = jt.concat([old_values, values], dim=1)
        self._layers[layer] = (keys, values)
        return keys, values

    def reserve(self) -> np.ndarray:
        """Announces one new token of each row, for which every layer then has a place at its row's own slot.

        Returns the table with it, int32 [batch, all].
        """
        batch = len(self._table)
        if self._offset + self.length >= self._capacity or batch > self._slots:
            self._rearrange(max(2 * self.length, self.length + LEAST_GROWTH))
        self._table = np.concatenate([self._table, np.arange(batch, dtype=np.int32)[:, None]], axis=1)
        return self._table

    def counts(self) -> np.ndarray:
        """How many tokens of each row are no pads, int32 [batch]."""
        return (self._table != PAD).sum(axis=1, dtype=np.int32)

    def select(self, rows: np.ndarray) -> None:
        """Makes `rows`, int [new batch], the batch: a row may be kept, moved, named several times, or left out.

        Pads on the left that all of them share go too, with the longer rows that made them necessary.
        """
        table = self._table[np.asarray(rows)]
        pads = int((table != PAD).any(axis=0).argmax())
        self._table = table[:, pads:]
        self._offset += pads

    def cut(self, length: int) -> None:
        """Forgets all tokens behind the first `length` of each row."""
        self._table = self._table[:, :length]

    def _is_plain(self) -> bool:
        """Whether row b's tokens are all that slot b holds."""
        plain = np.where(self._table == PAD, PAD, np.arange(len(self._table), dtype=np.int32)[:, None])
        return (
            self._offset == 0
            and (self._slots, self._capacity) == self._table.shape
            and np.array_equal(self._table, plain)
        )

    def _rearrange(self, capacity: int) -> None:
        """Copies every token into its row's own slot of new arrays, from the start."""
        batch, length = self._table.shape
        places = np.maximum(self._table, 0) * self._capacity + self._offset + np.arange(length)
        index = jt.array(places.reshape(-1).astype(np.int32))
        with jt.no_grad():
            for layer, kept in self._layers.items():
                self._layers[layer] = tuple(self._copied(x, index, batch, capacity) for x in kept)
        rows = np.arange(batch, dtype=np.int32)[:, None]
        self._table = np.where(self._table == PAD, PAD, rows).astype(np.int32)
        self._offset, self._slots, self._capacity = 0, batch, capacity

    def _copied(self, x, index, batch: int, capacity: int):
        width = x.shape[-1]
        kept = x.reshape(-1, width)[index].reshape(batch, self.length, width)
        if capacity == self.length:
            return kept
        return jt.concat([kept, jt.zeros((batch, capacity - self.length, width))], dim=1)
