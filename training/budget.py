"""How much validation a run can bear: all of it together takes about a tenth of the time that training takes.

Reckoned in tokens, not in seconds: what is measured follows from the data and the arguments alone, or a run that was
taken up again would not end as an undisturbed one.
"""

import math
from dataclasses import dataclass

import numpy as np

from datasets.encode import EncodedSet

SHARE = 0.1  # of training's time, for all validations together
FORWARD = 0.4  # of an update's time, what its forward pass takes: a third in full tuning, more with LoRA
FEWEST = 50  # examples of a validation: with fewer its figure says too little
MOST_TOKENS = 25_000  # of a validation: one stands before the first update. GPT-2 small on two cores: half a minute


@dataclass(frozen=True)
class Budget:
    """What the whole validation set holds, and how many tokens may be validated in a run that trains on `trained`."""

    examples: int
    tokens: int
    trained: float

    @property
    def affordable(self) -> float:
        """How many validated tokens take SHARE of the run."""
        return SHARE * self.trained / FORWARD

    @property
    def bears_whole(self) -> bool:
        """Whether the whole set, measured once, takes no more than half of that."""
        return self.tokens <= self.affordable / 2

    def every(self, steps: int, usual: int) -> int:
        """Updates between validations: `usual`, or more in a run too short for so many of FEWEST examples or all."""
        smallest = self._tokens_of(min(FEWEST, self.examples))
        bearable = max(1, int(self.affordable / smallest) - 1)  # besides the one before the first update
        return max(usual, math.ceil(steps / bearable))

    def limit(self, validations: int) -> int:
        """The examples of each of so many validations: all, or as many as the run bears, FEWEST at least."""
        is_short = self.tokens <= MOST_TOKENS and self.tokens * validations <= self.affordable
        if self.examples <= FEWEST or is_short:
            return self.examples
        left = self.affordable - (self.tokens if self.bears_whole else 0)
        tokens = min(left / validations, MOST_TOKENS)
        return max(FEWEST, int(tokens / self._tokens_of(1)))

    def _tokens_of(self, examples: int) -> float:
        return self.tokens / self.examples * examples


def count_validations(steps: int, every: int) -> int:
    """How often a run validates: before the first update, at every so many, and after the last."""
    return 1 + math.ceil(steps / every)


def draw(data: EncodedSet, limit: int, seed: int) -> EncodedSet:
    """`limit` of the items, drawn with the seed, in their order; `data` itself where it has no more. A smaller limit
    draws some of the same."""
    if limit >= len(data):
        return data
    chosen = sorted(np.random.default_rng(seed).permutation(len(data))[:limit].tolist())
    return EncodedSet([data.items[index] for index in chosen], [data.kept[index] for index in chosen if data.kept])
