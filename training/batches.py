"""Which micro-batches an update takes: step·n … step·n + n − 1 of an endless list of epochs.

They follow from the step's number and the run's seed alone, so a run can be taken up again at any step.
"""

from collections.abc import Sequence

import numpy as np

from datasets.batches import Batch, collate, plan_batches
from training.plan import RunPlan

NAMED = 3  # examples of an update that an error names


class UpdateBatches:
    """The training data of a run's updates. Steps and epochs count from 0.

    `sources`: where each training item stands ("file:line"), for error messages.
    """

    def __init__(self, plan: RunPlan, pad_id: int, sources: Sequence[str] = ()):
        self.plan, self.pad_id, self.sources = plan, pad_id, sources
        self._epoch, self._planned = -1, []  # the batches of the epoch that was asked for last

    def of(self, step: int) -> list[Batch]:
        """The micro-batches of an update; the last update may have fewer than the others."""
        chosen = [self._batches(epoch)[index] for epoch, index in self._places(step)]
        return [collate([self.plan.train[item] for item in items], self.pad_id) for items in chosen]

    def epochs(self, steps: int) -> float:
        """How many passes over the data so many updates make."""
        done = min(steps * self.plan.arguments.gradient_accumulation, self.plan.total_batches)
        return done / self.plan.batches_per_epoch

    def describe(self, step: int) -> str:
        """An update's data in words: epoch and batch, from 1, and where its first examples stand."""
        places = self._places(step)
        items = [int(item) for epoch, index in places for item in self._batches(epoch)[index]]
        named = ", ".join(self._name(item) for item in items[:NAMED])
        more = f" and {len(items) - NAMED} more" if len(items) > NAMED else ""
        batches = ", ".join(f"epoch {epoch + 1} batch {index + 1}" for epoch, index in places)
        return f"{batches}: {named}{more}"

    def _places(self, step: int) -> list[tuple[int, int]]:
        """The epoch of each micro-batch of an update, and which one of the epoch it is."""
        each = self.plan.arguments.gradient_accumulation
        last = min((step + 1) * each, self.plan.total_batches)
        return [divmod(number, self.plan.batches_per_epoch) for number in range(step * each, last)]

    def _batches(self, epoch: int) -> list[np.ndarray]:
        if epoch != self._epoch:
            given = self.plan.arguments
            self._planned = plan_batches(self.plan.train.lengths, given.batch_size, given.seed, epoch)
            self._epoch = epoch
        return self._planned

    def _name(self, item: int) -> str:
        if self.sources:
            return self.sources[item]
        kept = self.plan.train.kept
        return f"example {kept[item]}" if kept else f"window {item}"
