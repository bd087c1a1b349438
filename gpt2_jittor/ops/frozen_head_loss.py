"""The head's loss under a table that is kept in fewer bits, in plain Jittor: some of its rows are floats at a time.

The softmax is online, as in kernels/head_loss.h: what was summed so far is scaled down when a larger logit appears.
"""

from collections.abc import Iterator

from gpt2_jittor.ops.frozen import FrozenWeight
from gpt2_jittor.runtime.backend import jt

ROWS = 4096  # of the table that are floats at a time
HIDDEN = -1e30  # the logit of a row that another one replaces; not -inf, under -Ofast


class FrozenHeadLoss(jt.Function):
    """Arguments as of `head_loss`, without smoothing: hidden [n, width], a table [vocab, width], targets [n] → [n]."""

    def execute(self, hidden, weight: FrozenWeight, targets, tokens, rows):
        """The losses [n]. The gradient by `hidden` is made here too, while the logits are there."""
        self.hidden, self.rows = hidden, rows
        top, total, at_target, expected = jt.ones((hidden.shape[0],)) * HIDDEN, 0.0, 0.0, 0.0
        of_target = weight[targets]  # [n, width]
        for block, logits, is_target in self._blocks(weight, targets, tokens):
            higher = jt.maximum(top, logits.max(1))
            shrink, odds = jt.exp(top - higher), jt.exp(logits - higher.unsqueeze(1))  # [n], [n, k]
            top, total = higher, total * shrink + odds.sum(1)
            expected = expected * shrink.unsqueeze(1) + jt.matmul(odds, block)
            at_target = at_target + (logits * is_target).sum(1)
        if rows is not None:  # the last block is theirs
            replaced = is_target.sum(1, keepdims=True)
            of_target = of_target * (1 - replaced) + jt.matmul(is_target, rows)
            self.by_replaced = odds / total.unsqueeze(1) - is_target
        self.by_hidden = expected / total.unsqueeze(1) - of_target
        return jt.log(total) + (top - at_target)

    def grad(self, dloss):
        """dloss [n] → the gradients by hidden [n, width] and, where given, rows [k, width]."""
        by_rows = None
        if self.rows is not None:
            by_rows = jt.matmul((self.by_replaced * dloss.unsqueeze(1)).transpose(), self.hidden)
        return self.by_hidden * dloss.unsqueeze(1), None, None, None, by_rows

    def _blocks(self, weight: FrozenWeight, targets, tokens) -> Iterator[tuple]:
        """Some rows at a time [k, width], the replacing ones last: with their logits and 1 for the target's [n, k]."""
        for first in range(0, weight.shape[0], ROWS):
            block = weight[first : min(first + ROWS, weight.shape[0])]
            logits = jt.nn.matmul_transpose(self.hidden, block)
            ids = jt.arange(block.shape[0]) + first
            is_target = (ids.unsqueeze(0) == targets.unsqueeze(1)).float32()
            if tokens is not None:
                stays = 1 - (ids.unsqueeze(0) == tokens.unsqueeze(1)).float32().max(0, keepdims=True)  # [1, k]
                logits, is_target = logits * stays + HIDDEN * (1 - stays), is_target * stays
            yield block, logits, is_target
        if tokens is not None:
            is_target = (tokens.unsqueeze(0) == targets.unsqueeze(1)).float32()
            yield self.rows, jt.nn.matmul_transpose(self.hidden, self.rows), is_target
