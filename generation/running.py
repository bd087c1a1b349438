"""Texts that are continued together, a token of each at a time. They come and go between two tokens.

Prompts are read by themselves, into a cache of their own (`Reading`), at once or in pieces; then the texts join the
others (`Running`). Which others there are changes none of a text's tokens: each is chosen from its own logits by its
own sampler. The server's batcher does this for whoever asks (`serving/batcher.py`), `continued` for a list of texts.

Tokens are chosen by a kernel, where the logits are, and each step copies them to the host and nothing else. Where that
cannot be the logits come to the host: for a sampler that looks at the ids so far, for the likeliest tokens'
log-probabilities, where CUDA's kernel has not proved itself.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import numpy as np

from generation.prefixes import Prefixes
from generation.sampling import Sampler, not_drawable
from generation.text import Text
from generation.token import Token
from gpt2_jittor.model.cache import KVCache
from gpt2_jittor.model.lm import GPT2LMHeadModel
from gpt2_jittor.model.next_token import logits_on_device, read
from gpt2_jittor.model.pretrained import evaluating
from gpt2_jittor.ops import fused
from gpt2_jittor.ops.choose import choice, choose
from gpt2_jittor.runtime.backend import jt

Event = tuple[Text, Token | Exception]  # what came of a text: its next token, or why there is none
Adapters = Callable[[Sequence[str | None]], None]  # says which adapter each row of the next batch has


class Reading:
    """Prompts that are read together. `cache` holds what was read, of which `kept` tokens are from before.

    A prompt that several texts have, as draws do, is read once.
    """

    def __init__(self, texts: Sequence[Text]):
        self.texts, self.cache, self.kept = texts, KVCache(), 0
        keys = [(text.adapter, text.ids.tobytes()) for text in texts]
        distinct = dict(zip(keys, texts, strict=True))
        places = {key: place for place, key in enumerate(distinct)}
        self.rows = np.array([places[key] for key in keys])  # where each text's prompt is read
        self.adapters = [text.adapter for text in distinct.values()]
        self._ids, self._mask = pad_left([text.ids for text in distinct.values()])

    @property
    def left(self) -> int:
        """Tokens that are to be read, pads included."""
        return self._ids.shape[1] - self.cache.length

    @property
    def computed(self) -> int:
        """Tokens that were read."""
        return self.cache.length - self.kept

    def piece(self, most: int) -> tuple[np.ndarray, np.ndarray | None]:
        """The next ids, [prompts, time], and their mask, None where no prompt has pads."""
        part = slice(self.cache.length, self.cache.length + most)
        return self._ids[:, part], None if self._mask.all() else self._mask[:, part]


class Running:
    """The texts that are being continued with one model, and their keys and values. There is room for `most`."""

    def __init__(
        self, model: GPT2LMHeadModel, most: int, prefixes: Prefixes, choose_adapters: Adapters = lambda names: None
    ):
        self.model, self.most, self.prefixes, self.choose_adapters = model, most, prefixes, choose_adapters
        self.texts: list[Text] = []
        self._cache = KVCache()
        self._lost: Exception | None = None  # why the cache does not hold the texts any more

    def read(self, reading: Reading, most: int | None = None) -> list[Event]:
        """Reads so many more tokens of prompts at most; of a single one, only what no earlier text begins with.

        Once all are read the texts get their first tokens, and those that go on join the others.
        """
        texts = reading.texts
        if len(texts) == 1 and not reading.cache.length:
            reading.cache = self.prefixes.take(texts[0].adapter, texts[0].ids)
            reading.kept = texts[0].kept = reading.cache.length
        left = reading.left
        ids, mask = reading.piece(left if most is None else min(most, left))
        self.choose_adapters(reading.adapters)
        reading.cache.step = None  # adapters may have come and gone since the last piece
        if ids.shape[1] < left:
            read(self.model, ids, reading.cache, mask)
            return []
        events = _next_tokens(self.model, texts, ids, reading.cache, mask, reading.rows)
        reading.cache.step = None
        self._join(reading, [place for place, (_, event) in enumerate(events) if goes_on(event)])
        return events

    def step(self) -> list[Event]:
        """One more token of each text. Those that do not go on must leave then.

        Raises what kept other texts from joining: these ones' keys and values may have been lost with it.
        """
        if self._lost is not None:
            raise self._lost
        self.choose_adapters([text.adapter for text in self.texts])
        last = np.array([[text.ids[-1]] for text in self.texts])
        return _next_tokens(self.model, self.texts, last, self._cache)

    def keep_prompt(self, reading: Reading) -> None:
        """Keeps the keys and values of a single prompt that was read, for those that begin like it."""
        (text,), cache = reading.texts, reading.cache
        self.prefixes.give(text.adapter, text.prompt, cache if cache.is_full else cache.row(0))

    def keep(self, text: Text) -> None:
        """Keeps a copy of a text's keys and values for those that begin like it."""
        place = self.texts.index(text)
        if self.prefixes.has_room(int(self._cache.counts()[place])):
            cache = self._cache.row(place)
            self.prefixes.give(text.adapter, text.ids[: cache.length], cache)  # the last token has no keys yet

    def leave(self, texts: Collection[Text]) -> None:
        """Lets texts go; with the last one goes the memory."""
        rows = [place for place, text in enumerate(self.texts) if text not in texts]
        self.texts = [self.texts[row] for row in rows]
        if rows:
            self._cache.select(np.array(rows))
        else:
            self._cache, self._lost = KVCache(), None

    def renew(self) -> None:
        """The model's adapters have changed: the kernel is made anew at the next step."""
        self._cache.step = None

    def _join(self, reading: Reading, places: list[int]) -> None:
        """Takes up those texts of a reading; their last tokens are not in the cache yet."""
        if not places:
            return
        if not np.array_equal(rows := reading.rows[places], range(reading.cache.rows)):
            reading.cache.select(rows)
        try:
            self._cache.join(reading.cache, self.most)
        except Exception as error:  # of memory: some layers may have been moved, and others not
            self._lost = error
            self.leave([])
            raise
        self.texts += [reading.texts[place] for place in places]


def continued(
    model: GPT2LMHeadModel, texts: Iterable[Text], most: int, prefixes: Prefixes | None = None
) -> Iterator[tuple[Text, Token]]:
    """Continues texts in their order, up to `most` at a time: each token as it comes, and the text that it is of.

    Texts take the rows of others that have ended, as soon as a quarter of the rows is free: none waits for the longest,
    and several prompts are read for less than one after the other. `prefixes`: what is known of earlier texts of this
    model, and takes up these. Raises UserError where no token can be chosen.
    """
    running, waiting = Running(model, most, prefixes or Prefixes(0)), deque(text for text in texts if text.left > 0)
    with evaluating(model):
        while waiting or running.texts:
            room = min(most - len(running.texts), len(waiting))
            if room >= max(1, min(most // 4, len(waiting))):
                events = running.read(reading := Reading([waiting.popleft() for _ in range(room)]))
                if room == 1:
                    running.keep_prompt(reading)
            else:
                events = running.step()
                ended = [text for text, event in events if not goes_on(event)]
                for text in ended:
                    running.keep(text)
                if ended:
                    running.leave(ended)
            for text, event in events:
                if isinstance(event, Exception):
                    raise event
                yield text, event


def goes_on(event: Token | Exception) -> bool:
    """Whether a text does, after this."""
    return isinstance(event, Token) and event.ends is None


def pad_left(prompts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Rows of ids as one array and its mask, [batch, longest] each. Pads are 0, which the mask hides."""
    longest = max(map(len, prompts), default=0)
    ids, mask = np.zeros((2, len(prompts), longest), np.int64)
    for i, prompt in enumerate(prompts):
        ids[i, longest - len(prompt) :] = prompt
        mask[i, longest - len(prompt) :] = 1
    return ids, mask


def _next_tokens(model: GPT2LMHeadModel, texts: Sequence[Text], new: np.ndarray, cache: KVCache, mask=None, rows=None):
    """The next token of each text: the events.

    new [rows, time] are the ids that the cache lacks, mask theirs; `rows` says which is each text's, else they are in
    order.
    """
    logits = logits_on_device(model, new, cache, mask)
    rows = np.arange(len(texts)) if rows is None else rows
    if not (fused.enabled("choose") and all(map(_needs_logits_alone, texts))):
        on_host = logits.numpy()
        return [(text, _next_token(text, on_host[row])) for text, row in zip(texts, rows, strict=True)]
    if len(texts) > len(new):
        logits = logits[jt.array(rows)]
    choices = np.array([_choice(text.sample) for text in texts], np.float32)
    return [
        (text, text.take(Token(int(token), float(log_prob))) if token >= 0 else not_drawable())
        for text, (token, log_prob) in zip(texts, choose(logits, jt.array(choices)).numpy(), strict=True)
    ]


def _next_token(text: Text, logits: np.ndarray) -> Token | Exception:
    try:
        return text.next(logits)
    except Exception as error:  # it is this text's alone
        return error


def _needs_logits_alone(text: Text) -> bool:
    """Whether it is sampled by them, and nobody asks for other tokens' probabilities."""
    return isinstance(text.sample, Sampler) and not text.sample.needs_ids and not text.top


def _choice(sample: Sampler) -> list[float]:
    how = sample.choice
    return choice(sample.uniform(), how.temperature, how.top_k, how.top_p, how.min_p)
