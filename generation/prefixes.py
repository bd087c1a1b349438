"""Keys and values of texts that were read lately: a chat's next turn costs only what is new in it."""

from collections import OrderedDict
from collections.abc import Hashable

import numpy as np

from gpt2_jittor.model.cache import KVCache


class Prefixes:
    """The latest texts of a model, up to `most` tokens together; the one that was used longest ago goes first.

    The model's weights must stay as they are.
    """

    def __init__(self, most: int):
        self.most = most
        self._kept: OrderedDict[tuple[Hashable, bytes], tuple[np.ndarray, KVCache]] = OrderedDict()

    @property
    def tokens(self) -> int:
        """How many are held."""
        return sum(cache.length for _, cache in self._kept.values())

    def take(self, adapter: Hashable, prompt: np.ndarray) -> KVCache:
        """A cache of what a prompt begins with, its last token never among it: the caller's own."""
        best, key = 0, None
        for (name, encoded), (ids, _) in self._kept.items():
            if name == adapter and (common := common_beginning(ids, prompt)) > best:
                best, key = common, (name, encoded)
        if key is None:
            return KVCache()
        self._kept.move_to_end(key)
        return self._kept[key][1].beginning(best)

    def has_room(self, tokens: int) -> bool:
        """Whether a text of so many tokens would be kept."""
        return 0 < tokens <= self.most

    def give(self, adapter: Hashable, ids: np.ndarray, cache: KVCache) -> None:
        """Keeps a cache of one row that holds these ids, which nobody else uses, in place of what they begin with."""
        if not self.has_room(cache.length):
            return
        for key, (held, _) in list(self._kept.items()):
            if key[0] == adapter and len(held) <= len(ids) and np.array_equal(held, ids[: len(held)]):
                del self._kept[key]
        self._kept[(adapter, ids.tobytes())] = (ids, cache)
        while self.tokens > self.most:
            self._kept.popitem(last=False)

    def forget(self, adapter: Hashable) -> None:
        """Drops an adapter's."""
        for key in [key for key in self._kept if key[0] == adapter]:
            del self._kept[key]


def common_beginning(ids: np.ndarray, prompt: np.ndarray) -> int:
    """How many of the first ids are the same; at most all of the prompt but its last."""
    size = min(len(ids), len(prompt) - 1)
    differing = np.flatnonzero(ids[:size] != prompt[:size])
    return int(differing[0]) if len(differing) else size
