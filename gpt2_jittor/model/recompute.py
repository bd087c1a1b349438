"""Gradient checkpointing (Chen et al. 2016, https://arxiv.org/abs/1604.06174): less memory for more time.

Of a part of the model only what goes in is kept; all within is computed again when the backward pass comes to it, and
is the same to the bit: masks of dropout follow from their seeds.
"""

from collections.abc import Callable, Sequence

from gpt2_jittor.ops.dropout import seeds
from gpt2_jittor.ops.matmul import current_precision, products_in
from gpt2_jittor.runtime.backend import jt


def recomputed(run: Callable, x, parameters: Sequence):
    """run(x), float32 as x is, without what it makes on the way; `parameters` are all that are trained of it."""
    return _Recomputed.apply(x, run, parameters, *parameters)


class _Recomputed(jt.Function):
    def execute(self, x, run, parameters, *_):
        """run(x). The parameters are given twice: as a list, for themselves, and singly, for their gradients."""
        self.x, self.run, self.parameters = x, run, parameters
        self.precision, self.seeds = current_precision(), seeds.state()
        with jt.no_grad():
            return run(x)

    def grad(self, dy):
        """The gradients by x and by each parameter, made at once: what they need is then free for the block before."""
        x = self.x.detach()
        x.start_grad()
        with products_in(self.precision), seeds.rewound(self.seeds):
            y = self.run(x)
        dx, *found = jt.grad((y * dy).sum(), [x, *self.parameters], retain_graph=False)
        # now, for Jittor would compute many blocks again before it goes on with one; and nothing else that waits: of a
        # block's last product no gradient needs anything
        jt.sync([dx, *found], weak_sync=False)
        return dx, None, None, *found
