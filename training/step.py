"""The loss of an update and its gradients, over several batches one after the other."""

import functools
import math
from collections.abc import Sequence

from datasets.batches import Batch
from gpt2_jittor.backend import jt
from gpt2_jittor.pretrained import GPT2PreTrained


class Told:
    """An update's loss and gradient norm on the host, fetched together and once: each copy waits for the device."""

    def __init__(self, loss, norm):
        self._both = jt.concat([loss, norm])  # Vars of one element

    @functools.cached_property
    def values(self) -> tuple[float, float]:
        """The loss and the norm."""
        loss, norm = self._both.numpy().tolist()
        return loss, norm

    @property
    def finite(self) -> bool:
        """Whether loss and norm are both finite: else the update must not be made."""
        return all(map(math.isfinite, self.values))


def loss_and_gradients(
    model: GPT2PreTrained, batches: Sequence[Batch], parameters: Sequence, scored: int | None = None, scale=None
) -> tuple:
    """The mean loss over all that the batches score together, so that long ones weigh more, and its gradients.

    A Var of one element, and one for each of `parameters`, shaped like it. Where the batches are this process's part
    of more, `scored` is what all score: its part of that mean; zeros where there is no batch.
    The gradients are those of the loss times `scale`, a Var of one element.
    """
    scored = scored or sum(batch.scored for batch in batches)
    total, gradients = None, None
    for batch in batches:
        loss = model.losses(batch.input_ids, batch.labels, batch.attention_mask).sum() / scored
        new = jt.grad(loss if scale is None else loss * scale, parameters)
        loss.stop_grad()  # else it keeps the activations as long as it lives
        if gradients is None:
            total, gradients = loss, new
        else:
            total = total + loss
            gradients = [old + more for old, more in zip(gradients, new, strict=True)]
        if len(batches) > 1:
            jt.sync_all()  # one batch's activations at a time
    if gradients is None:
        return jt.zeros((1,)), [jt.zeros_like(parameter) for parameter in parameters]
    return total, gradients
