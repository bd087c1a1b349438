"""The head's loss on CUDA, for some rows at a time: cuBLAS multiplies, and a kernel computes what is between.

Jittor runs operators in the order of their creation and frees what nobody needs any more, so the logits of a block are
gone when the next ones come.
"""

from gpt2_jittor.ops import fused
from gpt2_jittor.ops.frozen import is_trained
from gpt2_jittor.runtime.backend import jt

AT_ONCE = 2**24  # logits of a block: 64 MiB, and as much again for their gradient


class HeadLossByBlocks(jt.Function):
    """Arguments as of `head_loss`: hidden [n, width], weight [vocab, width], targets [n] → [n]; and how many logits
    there may be at once, None for AT_ONCE.
    """

    def execute(self, hidden, weight, targets, at_once):
        """The losses [n]. Where a gradient will be asked for, the one by `hidden` [n, width] is made here too."""
        self.hidden, self.weight, self.targets = hidden, weight, targets
        self.weight_is_trained = is_trained(weight)
        self.blocks = _blocks(hidden.shape[0], max(1, (at_once or AT_ONCE) // weight.shape[0]))
        trained = not jt.flags.no_grad  # else (evaluation) half of the work is left out
        losses, self.stats, by_hidden = [], [], []
        for block in self.blocks:
            logits = jt.nn.matmul_transpose(hidden[block], weight)  # [block, vocab]
            rows = logits.shape[0]
            loss, stats, *by_logits = fused.run(
                ["cross_entropy"],
                "cross_entropy(in0_p, in1_p, out0_p, out1_p, " + ("out2_p" if trained else "nullptr") + ", in0_shape0,"
                " in0_shape1);",
                [[rows], [rows, 2], *([logits.shape] if trained else [])],
                [logits, targets[block]],
            )
            losses.append(loss)
            self.stats.append(stats)
            by_hidden += [jt.matmul(gradient, weight) for gradient in by_logits]
        self.by_hidden = _joined(by_hidden) if trained else None
        return _joined(losses)

    def grad(self, dloss):
        """dloss [n] → the gradients by hidden [n, width] and weight [vocab, width]; logits are computed again."""
        by_hidden = self.by_hidden * dloss.unsqueeze(1)
        return by_hidden, self._by_weight(dloss) if self.weight_is_trained else None, None, None

    def _by_weight(self, dloss):
        by_weight = None
        for block, stats in zip(self.blocks, self.stats, strict=True):
            hidden = self.hidden[block]
            logits = jt.nn.matmul_transpose(hidden, self.weight)
            (by_logits,) = fused.run(
                ["cross_entropy"],
                "cross_entropy_gradient(in0_p, in1_p, in2_p, in3_p, out0_p, in0_shape0, in0_shape1);",
                [logits.shape],
                [logits, self.targets[block], stats, dloss[block]],
            )
            some = _product_of_columns(by_logits, hidden)
            by_weight = some if by_weight is None else _sum(by_weight, some)
        return by_weight


def _blocks(rows: int, each: int) -> list[slice]:
    return [slice(start, min(start + each, rows)) for start in range(0, rows, each)]


def _joined(parts: list):
    return parts[0] if len(parts) == 1 else jt.concat(parts)


def _sum(x, y):
    (z,) = fused.run(["sum_of_two"], "sum_of_two(in0_p, in1_p, out0_p, in0->num);", [x.shape], [x, y])
    return z


def _product_of_columns(a, b):
    """aᵀ @ b, written so that Jittor finds cuBLAS's product in it without copying a: a [n, m], b [n, k] → [m, k]."""
    shape = [a.shape[0], a.shape[1], b.shape[1]]
    return (a.broadcast(shape, [2]) * b.broadcast(shape, [1])).sum(0)
