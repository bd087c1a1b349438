"""Loss scaling: what keeps the gradients of a float16 run within float16 (Micikevicius et al. 2018).

Gradients smaller than 6e-8 would be 0 in float16. So the loss is multiplied by a power of two before the backward pass,
and the gradients, float32 by then, are divided by it after. Where one of them overflows, the update is left out and the
scale halved; after many updates without that it is doubled. bfloat16 reaches as far as float32, and needs none of it.

The rule and its numbers are those of `torch.amp.GradScaler`, but for two cases in which that one would halve its scale
for ever: a loss that is not finite, and gradients that overflow unscaled, are no fault of the scale.
"""

import math

import numpy as np

from gpt2_jittor.runtime.backend import jt
from training.checkpoint import Progress

START, FACTOR, INTERVAL = 2.0**16, 2.0, 2000
LEAST = 1.0


def as_var(progress: Progress):
    """What the loss is to be multiplied by, a Var of one element; None where nothing is scaled."""
    if progress.loss_scale is None:
        return None
    # of two elements, one of which is taken: a single one Jittor would compile in as a constant
    return jt.array(np.array([progress.loss_scale] * 2, np.float32))[:1].stop_grad()


def overflowed(progress: Progress, loss: float, norm: float) -> bool:
    """Whether gradients of this norm, of this loss, have overflowed because of the scale."""
    scale = progress.loss_scale
    return scale is not None and scale > LEAST and math.isfinite(loss) and not math.isfinite(norm)


def shrink(progress: Progress) -> None:
    """What follows on an overflow."""
    progress.loss_scale, progress.scaled_updates = max(progress.loss_scale / FACTOR, LEAST), 0


def grow(progress: Progress) -> None:
    """What follows on an update that was made: the last of INTERVAL in a row doubles the scale, where there is one."""
    if progress.loss_scale is None:
        return
    progress.scaled_updates += 1
    if progress.scaled_updates == INTERVAL:
        progress.loss_scale, progress.scaled_updates = progress.loss_scale * FACTOR, 0
