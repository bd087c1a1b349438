"""Texts that are continued together, a token of each at a time. They come and go between two tokens.

A text's prompt is read by itself, in pieces, into a cache of its own (`Reading`); then the text joins the others
(`Running`). Which others there are changes none of its tokens: each is chosen from its own logits by its own sampler.
"""

from collections.abc import Callable, Sequence

import numpy as np

from generation.sampling import Sample
from generation.token import END, LENGTH, Token, described
from gpt2_jittor.model.cache import KVCache
from gpt2_jittor.model.lm import GPT2LMHeadModel
from gpt2_jittor.model.next_token import last_logits, read

Choose = Callable[[Sequence[str | None]], None]  # says which adapter each row of the next batch has


class Text:
    """A text and what chooses its next token; `adapter` is that of its rows, `top` as of `token.described`.

    `ids` grows by each token but an end token.
    """

    def __init__(
        self,
        prompt: np.ndarray,
        sample: Sample,
        limit: int,
        ends: frozenset[int],
        adapter: str | None = None,
        top: int | None = None,
    ):
        self.ids, self.sample, self.left, self.ends = np.asarray(prompt, np.int64), sample, limit, ends
        self.adapter, self.top = adapter, top

    def next(self, logits: np.ndarray) -> Token:
        """Chooses the next token from float32 [vocab]. Raises UserError where none can be chosen."""
        token = int(self.sample(logits[None], [self.ids])[0])
        self.left -= 1
        ends = END if token in self.ends else None if self.left > 0 else LENGTH
        if ends != END:
            self.ids = np.append(self.ids, token)
        return described(token, logits, self.top, ends)


class Reading:
    """A prompt that is read, a piece at a time. `cache` holds what was read, of which `kept` tokens are from before."""

    def __init__(self, text: Text):
        self.text, self.cache, self.kept = text, KVCache(), 0

    @property
    def left(self) -> int:
        """Tokens that are to be read."""
        return len(self.text.ids) - self.cache.length

    def advance(self, model: GPT2LMHeadModel, choose: Choose, most: int) -> np.ndarray | None:
        """Reads at most so many tokens; returns the logits of the last one, float32 [vocab], once all are read."""
        piece, whole = self.text.ids[self.cache.length :][:most][None], most >= self.left
        choose([self.text.adapter])
        self.cache.step = None  # adapters may have come and gone since the last piece
        if not whole:
            read(model, piece, self.cache)
            return None
        (logits,) = last_logits(model, piece, self.cache)
        self.cache.step = None
        return logits


class Running:
    """The texts that are being continued with one model, and their keys and values. There is room for `most`."""

    def __init__(self, model: GPT2LMHeadModel, choose: Choose, most: int):
        self.model, self.choose, self.most = model, choose, most
        self.texts: list[Text] = []
        self._cache = KVCache()

    def join(self, text: Text, cache: KVCache) -> None:
        """Takes up a text whose last token is not in the cache yet; all before it are."""
        self._cache.join(cache, self.most)
        self.texts.append(text)

    def leave(self, text: Text) -> None:
        """Lets a text go; with the last one goes the memory."""
        kept = [place for place, each in enumerate(self.texts) if each is not text]
        self.texts = [self.texts[place] for place in kept]
        if kept:
            self._cache.select(np.array(kept, np.int64))
        else:
            self._cache = KVCache()

    def row(self, text: Text) -> KVCache:
        """A copy of a text's keys and values."""
        return self._cache.row(next(place for place, each in enumerate(self.texts) if each is text))

    def logits(self) -> np.ndarray:
        """One step: the logits after each text, float32 [texts, vocab]. Each must then choose its next token."""
        self.choose([text.adapter for text in self.texts])
        return last_logits(self.model, np.array([[text.ids[-1]] for text in self.texts]), self._cache)

    def renew(self) -> None:
        """The model's adapters have changed: the kernel is made anew at the next step."""
        self._cache.step = None
