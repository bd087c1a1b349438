"""What should be known of data before a model is trained on them: lengths, duplicates, tokens, an example."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from common.terminal import some
from datasets.encode import IGNORED, Encoded, EncodedSet, report
from datasets.example import Dataset, Example

BINS = 8  # of a histogram of lengths
BAR = 30  # characters of its longest bar
SCORED = ("«", "»")  # stand around what is scored
SHOWN = 600  # characters of the example
NAMED = 5  # tokens, or pairs of duplicates
DROPPED = 20  # records that are named

Splits = Mapping[str, tuple[Dataset, EncodedSet]]


def short(splits: Splits, tokenizer) -> str:
    """A few lines that stand before a training: lengths, duplicates, and the first example as the model reads it."""
    (dataset, encoded), *_ = splits.values()
    return "\n".join([_lengths_line(encoded), *_duplicates(splits), *_example(dataset, encoded, tokenizer)])


def full(splits: Splits, tokenizer, added: Sequence[int] = ()) -> str:
    """All that can be told: of each split its size, lengths, what was dropped; duplicates; tokens; an example."""
    lines = []
    for dataset, encoded in splits.values():
        lines.append(report(dataset, encoded, DROPPED))
        lines += [f"  shortened: {some(encoded.cut, DROPPED)}"] if encoded.cut else []
        lines += ["  " + _lengths_line(encoded), *_histogram(encoded)]
    lines += [*_duplicates(splits), *_tokens(splits, tokenizer, added)]
    (dataset, encoded), *_ = splits.values()
    return "\n".join([*lines, *_example(dataset, encoded, tokenizer)])


def marked(item: Encoded, tokenizer) -> str:
    """An item's text, special tokens spelled out, with SCORED around each part that enters the loss."""
    scored = item.labels != IGNORED
    borders = [0, *(np.flatnonzero(scored[1:] != scored[:-1]) + 1), len(scored)]
    pieces = []
    for start, end in zip(borders, borders[1:], strict=False):
        text = tokenizer.decode(item.input_ids[start:end].tolist(), clean_up_tokenization_spaces=False)
        pieces.append(f"{SCORED[0]}{text}{SCORED[1]}" if scored[start] and item.label is None else text)
    return "".join(pieces)


def content(example: Example) -> tuple:
    """What makes an example the same as another: its texts, and its class."""
    return (*(segment.text for segment in example.segments), example.label)


def _lengths_line(encoded: EncodedSet) -> str:
    shortest, median, long, longest = np.percentile(encoded.lengths, [0, 50, 95, 100], method="nearest").tolist()
    return f"tokens: {shortest:,} the shortest, {median:,} the median, {long:,} at 95 %, {longest:,} the longest"


def _histogram(encoded: EncodedSet) -> list[str]:
    """How many sequences are how long, a line a bin of equal width, from the shortest to the longest."""
    least = min(encoded.lengths)
    width = (max(encoded.lengths) - least) // BINS + 1
    counts = Counter((length - least) // width for length in encoded.lengths)
    lines = []
    for index in range(max(counts) + 1):
        begin, bar = least + index * width, "#" * -(-counts[index] * BAR // max(counts.values()))
        lines.append(f"  {begin:>6,} – {begin + width - 1:>6,} {counts[index]:>8,} {bar}".rstrip())
    return lines


def _duplicates(splits: Splits) -> list[str]:
    lines, before = [], {}
    for split, (dataset, _) in splits.items():
        own: dict[tuple, str] = {}
        within, across = [], []
        for example in dataset:
            key = content(example)
            if key in own:
                within.append(f"{example.source} = {own[key]}")
            elif key in before:
                across.append(f"{example.source} = {before[key]}")
            own.setdefault(key, example.source)
        for where, found in ((f"within {split}", within), (f"of {split} in the splits above", across)):
            if found:
                lines.append(f"duplicates {where}: {len(found):,} ({some(found, NAMED)})")
        before = own | before
    return lines or ["duplicates: none"]


def _tokens(splits: Splits, tokenizer, added: Sequence[int]) -> list[str]:
    """Tokens that the tokenizer does not know, that no model saw before, or that training does not see."""
    seen = {split: Counter(_ids(encoded)) for split, (_, encoded) in splits.items()}
    train, *others = seen.values()
    lines, unknown = [], tokenizer.unk_token_id
    if unknown is not None and unknown != tokenizer.eos_token_id and (count := sum(c[unknown] for c in seen.values())):
        lines.append(f"unknown to the tokenizer: {count:,} tokens, read as {tokenizer.unk_token}")
    if new := [f"{tokenizer.convert_ids_to_tokens(each)} {train[each]:,}" for each in added]:
        lines.append(f"tokens that no model has seen, and how often train has them: {', '.join(new)}")
    for split, counts in zip([*seen][1:], others, strict=True):
        missing = [token for token in counts if token not in train]
        share = sum(counts[token] for token in missing) / max(1, sum(counts.values()))
        named = some([repr(tokenizer.decode([token])) for token in missing], NAMED)
        lines.append(f"tokens of {split} that train does not have: {len(missing):,}, {share:.1%} of its text ({named})")
    return lines


def _ids(encoded: EncodedSet) -> list[int]:
    return np.concatenate([item.input_ids for item in encoded.items]).tolist()


def _example(dataset: Dataset, encoded: EncodedSet, tokenizer) -> list[str]:
    text = marked(encoded[0], tokenizer)
    text = text if len(text) <= SHOWN else text[: SHOWN // 2] + " … " + text[-SHOWN // 2 :]
    source = dataset[encoded.kept[0]].source if encoded.kept else "the first window"
    scored = "its class is scored" if encoded[0].label is not None else f"scored between {' and '.join(SCORED)}"
    return [f"{source} as the model reads it, {scored}:", *(f"  | {line}" for line in text.split("\n"))]
