"""Examples that are kept apart and, where they are too long, lose part of those segments that may be cut.

The longest is cut first, so that no part vanishes beside another that stays whole. Given text is cut at its end, or
around the characters that its segment must keep (an answer in its context); text to be said loses its end, and its
end token with it: the model must not learn to stop in mid-sentence.
"""

import dataclasses
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from common.errors import UserError
from datasets.encode import Encoded, EncodedSet, encode_segments, join, not_empty
from datasets.example import Example, Segment

LEAST_WINDOW = 32  # tokens of a context that are worth reading on their own
OVERLAP = 0.5  # of a window, shared with the one before: an answer shorter than that stands whole in one of them


def fitted(examples: Sequence[Example], tokenizer, max_length: int) -> EncodedSet:
    """Encodes each example by itself, at most `max_length` tokens long; one that cannot be cut so far is dropped.

    Raises UserError where nothing is left.
    """
    result = EncodedSet(how="what may be cut of them is cut")
    for index, (example, parts) in enumerate(zip(examples, encode_segments(examples, tokenizer), strict=True)):
        excess = _length(parts) - max_length
        if excess > 0:
            parts = _shorten(example, parts, excess, tokenizer)
        if _length(parts) > max_length:
            result.dropped.append(f"{example.source}: {_length(parts)} tokens are the least of it, {max_length} fit")
            continue
        result.items.append(dataclasses.replace(join(parts), label=example.label))
        result.kept.append(index)
        if excess > 0:
            result.was_cut(example)
    return not_empty(result, len(examples))


def fitted_prompt(example: Example, tokenizer, max_length: int) -> list[np.ndarray]:
    """The ids of a prompt, cut as in training: one array, int32 [time]. Raises UserError where it cannot fit."""
    (parts,) = encode_segments([example], tokenizer)
    parts = _shorten(example, parts, _length(parts) - max_length, tokenizer)
    _check_fits(_length(parts), max_length)
    return [join(parts).input_ids]


def windowed_prompt(example: Example, tokenizer, max_length: int) -> list[np.ndarray]:
    """The ids of a prompt, several where it is too long: what may be cut is then read in overlapping windows.

    One segment of the example may be cut. Raises UserError where the others leave it less than LEAST_WINDOW, unless
    it is whole in that.
    """
    (parts,) = encode_segments([example], tokenizer)
    (place,) = [index for index, segment in enumerate(example.segments) if segment.cut]
    whole = parts[place]
    size = max_length - (_length(parts) - len(whole.input_ids))
    if len(whole.input_ids) <= size:
        return [join(parts).input_ids]
    _check_fits(max_length - size + min(LEAST_WINDOW, len(whole.input_ids)), max_length)
    last = len(whole.input_ids) - size
    starts = [*range(0, last, size - int(size * OVERLAP)), last]
    windows = [Encoded(whole.input_ids[start : start + size], whole.labels[start : start + size]) for start in starts]
    return [join([*parts[:place], window, *parts[place + 1 :]]).input_ids for window in windows]


def _shorten(example: Example, parts: Sequence[Encoded], excess: int, tokenizer) -> list[Encoded]:
    """Takes `excess` tokens out of the segments that may be cut, always from the longest, as far as that goes."""
    parts = list(parts)
    may = [index for index, segment in enumerate(example.segments) if segment.cut]
    if excess <= 0 or not may:
        return parts
    lengths = [_length([parts[index]]) for index in may]
    least = [
        _length([_cut(example.segments[index], parts[index], length, tokenizer)])
        for index, length in zip(may, lengths, strict=True)
    ]
    for index, length, left in zip(may, lengths, _longest_first(lengths, least, excess), strict=True):
        if left < length:
            parts[index] = _cut(example.segments[index], parts[index], length - left, tokenizer)
    return parts


def _longest_first(lengths: Sequence[int], least: Sequence[int], excess: int) -> list[int]:
    """What is left when `excess` is taken, token by token, from whichever is longest; none falls below its `least`.

    Of two that are as long, the first loses more.
    """

    def at(level: int) -> list[int]:
        """What is left of each when all are cut down to `level` tokens, as far as its `least` allows."""
        return [max(min(length, level), low) for length, low in zip(lengths, least, strict=True)]

    total = max(sum(lengths) - excess, sum(least))
    level = bisect_right(range(max(lengths) + 1), total, key=lambda level: sum(at(level))) - 1  # the highest that fits
    left = at(level)
    for index in reversed(range(len(left))):  # what is over goes to those that the level cut, from the last on
        left[index] += sum(left) < total and left[index] == level < lengths[index]
    return left


def _cut(segment: Segment, part: Encoded, excess: int, tokenizer) -> Encoded:
    """The segment's ids without `excess` of them; what it must keep, or one token, stays in any case."""
    length = len(part.input_ids)
    if segment.scored:
        kept = slice(0, max(1, length - excess))
        return Encoded(part.input_ids[kept], part.labels[kept])
    body = length - segment.end
    first, last = _kept_tokens(segment, body, tokenizer)
    size = max(body - excess, last - first)
    start = min(max((first + last - size) // 2, 0), body - size)  # as much before what is kept as behind it
    kept = np.r_[start : start + size, body:length]  # the end token parts this text from the next: it stays
    return Encoded(part.input_ids[kept], part.labels[kept])


def _kept_tokens(segment: Segment, body: int, tokenizer) -> tuple[int, int]:
    """Which of the segment's `body` tokens, [first, last), hold the characters that it must keep; else its first."""
    inside = []
    if segment.keep is not None:
        options = {"add_special_tokens": False, "split_special_tokens": True, "return_offsets_mapping": True}
        offsets = tokenizer(segment.text, verbose=False, **options)["offset_mapping"]
        start, end = segment.keep
        inside = [index for index, (begin, stop) in enumerate(offsets) if stop > start and begin < end]
    return (inside[0], inside[-1] + 1) if inside else (0, min(1, body))  # a vocabulary may lack the characters


def _check_fits(least: int, max_length: int) -> None:
    if least > max_length:
        raise UserError(f"the prompt takes {least} tokens at least, {max_length} fit: shorten it")


def _length(parts: Sequence[Encoded]) -> int:
    return sum(len(part.input_ids) for part in parts)
