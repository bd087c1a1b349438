"""Keys and values of the tokens so far, so that a new token costs one token's work."""

import numpy as np

from gpt2_jittor.backend import jt


class KVCache:
    """One model's keys and values, [batch, time, width] a layer, and the mask of the tokens they belong to."""

    def __init__(self):
        self._layers: dict[int, tuple] = {}
        self._mask = None

    @property
    def length(self) -> int:
        """Tokens held, pads included."""
        return 0 if self._mask is None else self._mask.shape[1]

    def extend_mask(self, mask: np.ndarray) -> np.ndarray:
        """Takes up the new tokens' mask, [batch, new] → the mask of all tokens, [batch, all]."""
        self._mask = mask if self._mask is None else np.concatenate([self._mask, mask], axis=1)
        return self._mask

    def append(self, layer: int, keys, values):
        """Takes up a layer's new keys and values, [batch, new, width] → all of them, [batch, all, width]."""
        if layer in self._layers:
            old_keys, old_values = self._layers[layer]
            keys = jt.concat([old_keys, keys], dim=1)
            values = jt.concat([old_values, values], dim=1)
        self._layers[layer] = (keys, values)
        return keys, values

    def select(self, rows: np.ndarray) -> None:
        """Makes `rows`, int [new batch], the batch: a row may be kept, moved, named several times, or left out.

        Pads on the left that all of them share go too, with the longer rows that made them necessary.
        """
        rows = np.asarray(rows)
        if np.array_equal(rows, np.arange(len(self._mask))):
            return
        mask = self._mask[rows]
        pads = int(mask.any(axis=0).argmax())
        self._mask = mask[:, pads:]
        index = jt.array(rows.astype(np.int32))
        with jt.no_grad():
            for layer, kept in self._layers.items():
                self._layers[layer] = tuple((x[:, pads:] if pads else x)[index] for x in kept)
