"""Examples become token ids and labels.

Labels are not shifted: where a token is scored, labels[i] == input_ids[i], elsewhere -100; the model shifts
them itself. There are four encoders: `dialogue` keeps every example apart and forgets its oldest segments
where it is too long, `packed` joins everything and cuts it into full windows, `fitted` (`truncation.py`) keeps
examples apart and shortens those of their segments that may be cut, and `conversations` (`turns.py`) parts them
between turns.
"""

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from common.errors import UserError
from datasets.example import Dataset, Example, Segment

IGNORED = -100  # the label of a token that is not scored, as in PyTorch
PIECE = 1 << 16  # characters tokenised as one text: working memory grows with the longest text
BATCH = 4096  # texts tokenised in one call: enough to keep every core busy
REPORTED = 3  # dropped records that a report spells out
SPEAKERS = ("<USER>", "<BOT>")  # open the turns of a dialogue where the tokenizer has them


@dataclass(frozen=True)
class Encoded:
    """`input_ids` and `labels`: int32 [time]. `label`: the class, for classification."""

    input_ids: np.ndarray
    labels: np.ndarray
    label: int | None = None


@dataclass
class EncodedSet:
    """Encoded examples, `dropped` ("file:line: reason"), and how many were `shortened` to fit, and `how`.

    `cut`: where the shortened ones stand, "file:line". `kept`: the index of each item's example, where items are
    examples. `special`: how often which special token was spelled out, where that means the token.
    """

    items: list[Encoded] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    shortened: int = 0
    cut: list[str] = field(default_factory=list)
    how: str = "their beginnings are left out"
    special: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.items)

    def was_cut(self, example: Example) -> None:
        """Notes an example that was shortened to fit."""
        self.shortened += 1
        self.cut.append(example.source)

    def __getitem__(self, index: int) -> Encoded:
        return self.items[index]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each item, in order."""
        return [len(item.input_ids) for item in self.items]

    @property
    def tokens(self) -> int:
        """Tokens of all items, scored or not, pads not counted."""
        return sum(self.lengths)

    @property
    def scored(self) -> int:
        """What enters the loss: classes, or tokens. An example's first token never does: nothing is before it."""
        return sum(count_scored(item.labels) if item.label is None else 1 for item in self.items)


def dialogue(examples: Sequence[Example], tokenizer, max_length: int) -> EncodedSet:
    """Encodes each example by itself, at most `max_length` tokens long.

    Whole segments are forgotten from the front until the rest fits; the first one kept is given, never
    scored. An example whose last two segments do not fit, or in which nothing is scored, is dropped.
    Raises UserError where nothing is left.
    """
    result = EncodedSet()
    for index, (example, parts) in enumerate(zip(examples, encode_segments(examples, tokenizer), strict=True)):
        start = _first_that_fits([len(part.input_ids) for part in parts], max_length)
        if len(parts) - start < 2:
            result.dropped.append(f"{example.source}: {_too_long(parts, max_length)}")
            continue
        first = parts[start]
        unscored = Encoded(first.input_ids, np.full_like(first.labels, IGNORED))
        item = join([unscored, *parts[start + 1 :]])
        if not count_scored(item.labels):
            result.dropped.append(f"{example.source}: nothing in it is scored")
            continue
        result.items.append(item)
        result.kept.append(index)
        if start > 0:
            result.was_cut(example)
    return not_empty(result, len(examples))


def packed(examples: Sequence[Example], tokenizer, max_length: int) -> EncodedSet:
    """Joins all examples and cuts them into windows of `max_length` tokens, all scored.

    The last window may be shorter, but has two tokens at least: one to read and one to predict.
    Raises UserError where nothing is left.
    """
    parts = [part.input_ids for segments in encode_segments(examples, tokenizer) for part in segments]
    stream = np.concatenate(parts) if parts else np.zeros(0, np.int32)
    windows = [stream[start : start + max_length] for start in range(0, len(stream), max_length)]
    items = [Encoded(window, window) for window in windows if len(window) >= 2]
    spelled, own = special_tokens(tokenizer), [s.text for e in examples for s in e.segments if s.special]
    special = Counter(token for text in own for token in spelled.findall(text)) if spelled else Counter()
    return not_empty(EncodedSet(items, special=special), len(examples))


def dialogue_prompt(example: Example, tokenizer, max_length: int) -> list[np.ndarray]:
    """The ids that generation continues, one array: int32 [time], with time <= max_length.

    Oldest segments are forgotten as in training. Raises UserError where the last one alone is too long.
    """
    (parts,) = encode_segments([example], tokenizer)
    ids = [part.input_ids for part in parts]
    start = _first_that_fits([len(part) for part in ids], max_length)
    last = max((index for index, segment in enumerate(example.segments) if segment.text), default=0)
    if start > last:
        raise UserError(f"the prompt takes {sum(map(len, ids[last:]))} tokens, {max_length} fit: shorten it")
    return [np.concatenate(ids[start:])]


def count_scored(labels: np.ndarray) -> int:
    """How many tokens of `labels`, [time] or [batch, time], are predicted once the model has shifted them."""
    return int((labels[..., 1:] != IGNORED).sum())


def report(dataset: Dataset, encoded: EncodedSet, named: int = REPORTED) -> str:
    """A few lines about the data, printed before training: what there is, what was dropped, where and why.

    So many of the dropped records are `named`.
    """
    lines = [
        f"{dataset.task} {dataset.split}: {len(dataset):,} examples, {len(encoded):,} sequences, "
        f"{encoded.tokens:,} tokens, {encoded.scored:,} scored"
    ]
    if encoded.shortened:
        lines.append(f"  {encoded.shortened:,} shortened to fit ({encoded.how})")
    if encoded.special:
        counts = ", ".join(f"{count:,} {token}" for token, count in encoded.special.most_common())
        lines.append(f"  special tokens in the text: {counts}")
    lines += [f"  {note}" for note in dataset.notes]
    dropped = dataset.dropped + encoded.dropped
    lines += [f"  dropped {reason}" for reason in dropped[:named]]
    if len(dropped) > named:
        lines.append(f"  ... {len(dropped) - named:,} more dropped, {len(dropped):,} in all")
    return "\n".join(lines)


def encode_segments(examples: Sequence[Example], tokenizer) -> Iterator[list[Encoded]]:
    """For each example, for each segment, its ids with its speaker's token before and its end token after it.

    No end token follows one that the text ends with already, where that means itself.
    """
    ids = tokenise([(segment.text, segment.special) for e in examples for segment in e.segments], tokenizer)
    speakers = speaker_ids(tokenizer)
    for example in examples:
        yield [_encode(segment, next(ids), speakers, tokenizer.eos_token_id) for segment in example.segments]


def speaker_ids(tokenizer) -> list[int] | None:
    """The ids of SPEAKERS, None where the tokenizer does not have them."""
    ids = tokenizer.convert_tokens_to_ids(list(SPEAKERS))
    known = all(i is not None and tokenizer.convert_ids_to_tokens(i) == s for i, s in zip(ids, SPEAKERS, strict=True))
    return ids if known else None


def _encode(segment: Segment, ids: list[int], speakers: list[int] | None, end: int) -> Encoded:
    before = [speakers[segment.speaker]] if speakers and segment.speaker is not None else []
    ends = segment.end and not (segment.special and ids[-1:] == [end])
    input_ids = np.array(before + ids + [end] * ends, dtype=np.int32)
    labels = input_ids.copy()
    labels[: len(before) if segment.scored else None] = IGNORED  # who speaks is given, never said
    return Encoded(input_ids, labels)


def special_tokens(tokenizer) -> re.Pattern | None:
    """Finds the tokenizer's special tokens in a text, the longest where several begin; None where it has none."""
    tokens = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special and token.content]
    return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True)))) if tokens else None


def tokenise(texts: Sequence[tuple[str, bool]], tokenizer) -> Iterator[list[int]]:
    """The ids of each text. Special tokens that it spells out are such tokens where its flag says so, else text."""
    spelled = special_tokens(tokenizer)
    pieces, counts = [], []
    for text, special in texts:
        before = len(pieces)
        pieces.extend((piece, special) for piece in _pieces(text, spelled if special else None))
        counts.append(len(pieces) - before)
    ids = _batches(pieces, tokenizer)
    for count in counts:
        yield [token for _ in range(count) for token in next(ids)]


def _batches(pieces: Sequence[tuple[str, bool]], tokenizer) -> Iterator[list[int]]:
    options = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
    for start in range(0, len(pieces), BATCH):
        batch, ids = pieces[start : start + BATCH], {}
        for special in (False, True):
            # a paragraph stands before each of its questions: once is enough
            distinct = list(dict.fromkeys(text for text, own in batch if own == special))
            if distinct:
                found = tokenizer(distinct, split_special_tokens=not special, **options)["input_ids"]
                ids |= {(text, special): each for text, each in zip(distinct, found, strict=True)}
        yield from (ids[piece] for piece in batch)


def _pieces(text: str, spelled: re.Pattern | None) -> Iterable[str]:
    """Cuts a long text where that changes no token: GPT-2's never reach from a word into a space.

    Not within what is `spelled` out in it, nor right behind: some such tokens take the space that follows.
    """
    if len(text) <= PIECE:
        return [text]
    tokens = [found.span() for found in spelled.finditer(text)] if spelled else []
    ends = [end for _, end in tokens]
    cuts, begin, border = [0], PIECE, re.compile(r"(?<=\S)(?=\s)")
    while found := border.search(text, begin):
        cut = found.start()
        token = bisect_left(ends, cut)  # the first that ends there or later
        if token < len(tokens) and tokens[token][0] < cut:
            begin = ends[token] + 1
        else:
            cuts.append(cut)
            begin = cut + PIECE
    return [text[start:end] for start, end in zip(cuts, [*cuts[1:], len(text)], strict=True)]


def _first_that_fits(lengths: Sequence[int], max_length: int) -> int:
    """The index of the first segment to keep, so that the kept ones sum to `max_length` at most."""
    left, start = max_length, len(lengths)
    while start > 0 and lengths[start - 1] <= left:
        start -= 1
        left -= lengths[start]
    return start


def _too_long(parts: Sequence[Encoded], max_length: int) -> str:
    if len(parts) < 2:
        return "a single segment has nothing to answer"
    return f"its last two segments take {sum(len(part.input_ids) for part in parts[-2:])} tokens, {max_length} fit"


def join(parts: Sequence[Encoded]) -> Encoded:
    """The segments of an example as one."""
    return Encoded(np.concatenate([part.input_ids for part in parts]), np.concatenate([part.labels for part in parts]))


def not_empty(result: EncodedSet, examples: int) -> EncodedSet:
    """The result itself. Raises UserError where it holds nothing."""
    if not result.items:
        first = f"; the first: {result.dropped[0]}" if result.dropped else ""
        raise UserError(f"none of the {examples} examples can be used: give other data{first}")
    return result
