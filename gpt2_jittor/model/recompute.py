"""Gradient checkpointing (Chen et al. 2016, https://arxiv.org/abs/1604.06174): less memory for more time.

Of each part of the model only what goes in is kept; all within is computed again when the backward pass comes to it,
and is the same to the bit: masks of dropout follow from their seeds.
"""

from collections.abc import Callable, Sequence

from gpt2_jittor.ops.dropout import seeds
from gpt2_jittor.ops.matmul import current_precision, products_in
from gpt2_jittor.runtime.backend import jt


def recomputed(parts: Sequence[Callable], x, parameters: Sequence[Sequence]):
    """What the parts make of x, one after the other, float32 as x is; parameters[i] are all that is trained of part i.

    Gradients can be had once: the backward pass takes away what it is done with.
    """
    return _Recomputed.apply(x, parts, parameters, *(each for some in parameters for each in some))


class _Recomputed(jt.Function):
    """All parts as one function: between functions Jittor keeps each gradient until the whole backward pass is done."""

    def execute(self, x, parts, parameters, *_):
        """The last part's output. Parameters are given twice: as lists, for themselves, and singly, for gradients."""
        self.precision, self.kept = current_precision(), []
        with jt.no_grad():
            for part, some in zip(parts, parameters, strict=True):
                self.kept.append((part, some, x, seeds.state()))
                x = part(x)
        return x

    def grad(self, dy):
        """The gradients by x and by each parameter, of part after part: what they need is then free for the next."""
        found = []
        while self.kept:
            part, some, x, state = self.kept.pop()
            x = x.detach()
            x.start_grad()
            with products_in(self.precision), seeds.rewound(state):
                y = part(x)
            dy, *own = jt.grad((y * dy).sum(), [x, *some], retain_graph=False)
            # now, for Jittor would compute many parts again before it goes on with one; and nothing else that waits:
            # of a block's last product no gradient needs anything
            jt.sync([dy, *own], weak_sync=False)
            found = own + found
        return dy, None, None, *found
