"""One update of a model: what the trainer and the benchmarks make again and again, written once.

Forward and backward over the micro-batches, one after the other; sums over the processes of a run; the gradients' norm;
clipping; AdamW. Nothing of it waits for the device but the first look at a `StepResult`.
"""

import functools
import math
from collections.abc import Sequence

from common import processes
from datasets.batches import Batch
from gpt2_jittor.model.pretrained import GPT2PreTrained
from gpt2_jittor.ops.dropout import seeds
from gpt2_jittor.runtime.backend import jt
from training.distributed import own_shards, summed_vars, take_from_first
from training.optimizer import AdamW, clip_factor, global_norm


class StepResult:
    """An update's loss and gradient norm on the host, fetched together and once: each copy waits for the device."""

    def __init__(self, loss, grad_norm):
        self._both = jt.concat([loss, grad_norm])  # Vars of one element
        self.applied = False  # whether the parameters were changed

    @functools.cached_property
    def _values(self) -> list[float]:
        return self._both.numpy().tolist()

    @property
    def loss(self) -> float:
        """The mean over all that the update scores, in nats."""
        return self._values[0]

    @property
    def grad_norm(self) -> float:
        """Of all gradients together, before clipping and without the loss scale."""
        return self._values[1]

    @property
    def finite(self) -> bool:
        """Whether loss and norm are both finite: else the update does harm."""
        return all(map(math.isfinite, self._values))


def update(
    model: GPT2PreTrained,
    optimizer: AdamW,
    batches: Sequence[Batch],
    learning_rate: float,
    max_grad_norm: float,
    dropout_seed: tuple[int, int],
    loss_scale=None,
    skip_nonfinite: bool = False,
) -> StepResult:
    """One update of the optimiser's parameters, on all that `batches` score. The model must be in training mode.

    Dropout's masks follow from `dropout_seed`, (the run's seed, the step), and the process.
    `max_grad_norm`: gradients are clipped to it; 0: not at all.
    `loss_scale`: a Var of one element, which the loss is multiplied by and the gradients are divided by again.
    With `skip_nonfinite` nothing is changed where loss or norm is not finite; this waits for the device in between.
    Where there are several processes, all must call this together, with the same batches: each computes its rows.
    """
    largest = max(batch.input_ids.size for batch in batches)
    if largest > optimizer.largest_batch:  # its arrays do not fit into what smaller ones have left
        optimizer.largest_batch = largest
        jt.gc()
    seeds.restart(*dropout_seed, processes.rank())
    scored = sum(batch.scored for batch in batches)
    loss, gradients = loss_and_gradients(model, own_shards(batches), optimizer.parameters, scored, loss_scale)
    loss, *gradients = summed_vars([loss, *gradients])
    norm = global_norm(gradients, loss_scale)
    take_from_first([norm])  # on CUDA the same numbers add up in another order in each process
    result = StepResult(loss, norm)
    if skip_nonfinite and not result.finite:
        return result
    optimizer.step(gradients, learning_rate, clip_factor(norm, max_grad_norm, loss_scale))
    jt.sync_all()
    result.applied = True
    return result


def loss_and_gradients(
    model: GPT2PreTrained, batches: Sequence[Batch], parameters: Sequence, scored: int | None = None, scale=None
) -> tuple:
    """The mean loss over all that the batches score together, so that long ones weigh more, and its gradients.

    A Var of one element, and one for each of `parameters`, shaped like it. Where the batches are this process's shards
    of larger ones, `scored` is what all score: its share of that mean; zeros where there is no batch.
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
