"""Setting examples apart where the publisher has not, by a key that must not stand on both sides.

The order of the keys' hashes decides: the same choice on every machine, whatever order the file is in.
"""

import zlib
from collections.abc import Sequence
from pathlib import Path

from common.errors import ParameterError, UserError
from datasets.example import WHOLE, Example

ALONE = {"validation": 0.1, "test": 0.1}  # of a single file that is all the data there is


def shares_of(data_dir: Path | None, otherwise: dict[str, float]) -> dict[str, float]:
    """What to set apart: ALONE where `data_dir` is a single file, which would else be every split."""
    return ALONE if data_dir is not None and data_dir.is_file() else otherwise


def select_split(
    examples: Sequence[Example], keys: Sequence[str], split: str, shares: dict[str, float]
) -> list[Example]:
    """The examples of `split`, in their order; `keys[i]` is the i-th example's.

    `shares` says how much of the distinct keys each split but train gets, one key at least; without shares, and of
    WHOLE, the examples are one split already.
    Raises UserError where there are too few keys for that, and where none is left for train.
    """
    if not shares or split == WHOLE:
        return list(examples)
    distinct = sorted(set(keys), key=lambda key: (zlib.crc32(key.encode("utf-8", "surrogatepass")), key))
    if len(distinct) <= len(shares):
        raise UserError(f"{examples[0].source}: too little data to set some of it apart: give more")
    splits, begin = {}, 0
    for name, share in shares.items():
        end = begin + max(1, round(share * len(distinct)))
        splits |= dict.fromkeys(distinct[begin:end], name)
        begin = end
    if begin >= len(distinct):
        raise ParameterError("{0}: nothing is left to train on: lower {validation_share}", examples[0].source)
    return [example for example, key in zip(examples, keys, strict=True) if splits.get(key, "train") == split]
