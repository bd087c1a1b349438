"""Keys and values of the tokens so far, so that a new token costs one token's work.

A layer's keys are one array [slots, capacity, width], larger than its tokens need, and a table tells each row of the
batch in which slot each of its tokens stands. So a token is written once, where it stays: rows that are moved, doubled
or left out (beams, ended texts) change the table alone. Only when the capacity runs out, or when the composed operators
need keys side by side, are they copied into new arrays.
"""

import numpy as np

from gpt2_jittor.ops.cache_rows import put_rows
from gpt2_jittor.runtime.backend import jt

PAD = -1  # in the table: a token that nobody sees
MARGIN = 128  # tokens for which there is room behind those that are there


class KVCache:
    """One model's keys and values, and the table of the tokens they belong to."""

    def __init__(self):
        self._layers: dict[int, tuple] = {}  # (keys, values) of each
        self._table = np.zeros((0, 0), np.int32)  # [batch, length]: the slot of a row's token, or PAD
        self._offset = 0  # token j of every row stands at offset + j of its slot
        self._slots = self._capacity = 0
        self._borrowed = False  # the arrays are another cache's: nothing is written into them
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
    def is_full(self) -> bool:
        """Whether its arrays hold its tokens and nothing else: no room for more."""
        return (self._slots, self._capacity) == self._table.shape

    @property
    def layers(self) -> dict[int, tuple]:
        """The keys and values of each layer, [slots, capacity, width]."""
        return self._layers

    def extend_mask(self, mask: np.ndarray) -> np.ndarray:
        """Announces new tokens to `append`, with their mask [batch, new] → the mask of all tokens, [batch, all]."""
        if self._layers and not self._is_plain():
            self._rearrange(self.length, self.rows)
        rows = np.arange(len(mask), dtype=np.int32)[:, None]
        new = np.where(mask != 0, rows, PAD).astype(np.int32)
        self._borrowed = False  # `append` makes new arrays
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
        if self._borrowed or self._offset + self.length >= self._capacity or batch > self._slots:
            self._rearrange(self.length + MARGIN, batch)
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

    def join(self, other: "KVCache", most_rows: int) -> None:
        """Takes up another cache's rows, behind its own; all end together, and pads stand before the shorter ones.

        There are never more than `most_rows`. The other cache stays as it is.
        """
        if not self.rows:
            self._borrow(other, other.length)
            self._rearrange(self.length + MARGIN, self.rows)
            return
        if (more := other.length - self.length) > 0:
            self._table = np.pad(self._table, ((0, 0), (more, 0)), constant_values=PAD)
            self._offset -= more
        rows = self.rows + other.rows
        if self._borrowed or self._offset < 0 or self._offset + self.length > self._capacity or rows > self._slots:
            slots = self._slots if rows <= self._slots else min(max(rows, 2 * self._slots), max(rows, most_rows))
            self._rearrange(self.length + MARGIN, slots)
        wanted = np.pad(other._table != PAD, ((0, 0), (self.length - other.length, 0)))
        new = np.where(wanted, self._free_slots(other.rows), PAD).astype(np.int32)
        arrays = [array for kept in self._layers.values() for array in kept]
        tokens = [each for layer in self._layers for each in other._tokens(layer)]
        written = iter(put_rows(arrays, tokens, self._places(new)[wanted]))
        self._layers = {layer: (next(written), next(written)) for layer in self._layers}
        self._table = np.concatenate([self._table, new])

    def row(self, index: int) -> "KVCache":
        """A copy of one row's tokens as a cache of its own, without pads."""
        places = self._places(self._table)[index][self._table[index] != PAD]
        alone = KVCache()
        alone._table = np.zeros((1, len(places)), np.int32)
        alone._slots, alone._capacity = alone._table.shape
        for layer in self._layers:
            alone._layers[layer] = tuple(x.unsqueeze(0) for x in self._gathered(layer, places))
        jt.sync([x for kept in alone._layers.values() for x in kept])  # before anything is written in their place
        return alone

    def beginning(self, length: int) -> "KVCache":
        """The first tokens of each row, as a cache of its own; they are copied when that must write, not before."""
        part = KVCache()
        part._borrow(self, length)
        return part

    def _borrow(self, other: "KVCache", length: int) -> None:
        self._layers, self._table, self._borrowed = dict(other._layers), other._table[:, :length], True
        self._offset, self._slots, self._capacity = other._offset, other._slots, other._capacity

    def _is_plain(self) -> bool:
        """Whether row b's tokens are all that slot b holds."""
        plain = np.where(self._table == PAD, PAD, np.arange(len(self._table), dtype=np.int32)[:, None])
        return self._offset == 0 and self.is_full and np.array_equal(self._table, plain)

    def _places(self, table: np.ndarray) -> np.ndarray:
        """Where each token of a table [rows, length] stands in a layer's arrays; of a pad it means nothing."""
        return table * self._capacity + self._offset + np.arange(self.length)

    def _gathered(self, layer: int, places: np.ndarray) -> list:
        """A layer's keys and its values at these places, [places, width] each."""
        at = jt.array(places.reshape(-1).astype(np.int32))
        with jt.no_grad():
            return [x.reshape(-1, x.shape[-1])[at] for x in self._layers[layer]]

    def _tokens(self, layer: int) -> list:
        """A layer's keys and its values of all tokens that are no pads, row by row: [tokens, width] each."""
        return self._gathered(layer, self._places(self._table)[self._table != PAD])

    def _free_slots(self, rows: int) -> np.ndarray:
        """For `rows` new rows a slot in each column that no row uses there, [rows, length]."""
        used = np.zeros((self._slots + 1, self.length), bool)  # the last line takes the pads
        used[self._table, np.arange(self.length)] = True
        return np.argsort(used[:-1], axis=0, kind="stable")[:rows]

    def _rearrange(self, capacity: int, slots: int) -> None:
        """Copies every token into its row's own slot of new arrays, from the start."""
        places = np.where(self._table == PAD, 0, self._places(self._table))
        for layer in self._layers:
            found = self._gathered(layer, places)
            self._layers[layer] = tuple(self._spread(x, slots, capacity) for x in found)
            jt.sync(list(self._layers[layer]))  # one layer after the other: the old ones go
        rows = np.arange(self.rows, dtype=np.int32)[:, None]
        self._table = np.where(self._table == PAD, PAD, rows).astype(np.int32)
        self._offset, self._slots, self._capacity, self._borrowed = 0, slots, capacity, False

    def _spread(self, tokens, slots: int, capacity: int):
        """The tokens of all rows, [batch * length, width], in new arrays: [slots, capacity, width]."""
        (batch, length), width = self._table.shape, tokens.shape[-1]
        with jt.no_grad():
            if not batch * length:
                return jt.zeros((slots, capacity, width), tokens.dtype)
            spread = tokens.reshape(batch, length, width)
            if capacity > length:
                spread = jt.concat([spread, jt.zeros((batch, capacity - length, width), tokens.dtype)], dim=1)
            if slots > batch:
                spread = jt.concat([spread, jt.zeros((slots - batch, capacity, width), tokens.dtype)], dim=0)
            return spread
