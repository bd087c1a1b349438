"""Cross-entropy of hidden states under an LM head: the model's largest product, and its loss, in one operator.

The fused kernel goes through the vocabulary in blocks, CUDA's through the rows: no [rows, vocab] array exists, in
either direction. Label smoothing needs none either, and stands beside whichever of them runs.
"""

import functools

import numpy as np

from gpt2_jittor.ops import frozen, fused
from gpt2_jittor.ops.frozen import FrozenWeight
from gpt2_jittor.ops.frozen_head_loss import FrozenHeadLoss
from gpt2_jittor.ops.head_loss_blocks import HeadLossByBlocks
from gpt2_jittor.ops.matmul import current_precision, matmul
from gpt2_jittor.ops.operand import Operand
from gpt2_jittor.ops.proof import Comparison
from gpt2_jittor.runtime import cpu
from gpt2_jittor.runtime.backend import jt

_HEAD = """
    auto table = {table};
    const Head<decltype(table)> head = {{in0_p, table, in2_p, in0_shape0, in0_shape1, in1_shape0, {replaced}}};
"""


def logits(hidden, weight):
    """hidden · weightᵀ, in the current precision: [n, width] and [vocab, width], float32 or a `FrozenWeight`
    → [n, vocab]."""
    if isinstance(weight, FrozenWeight):
        return frozen.logits(hidden, weight)
    return matmul(hidden, weight, transposed=True)


def head_loss(hidden, weight, targets, tokens=None, rows=None, smoothing: float = 0.0):
    """−log softmax(hidden · weightᵀ)[target] of each row.

    hidden [n, width], weight [vocab, width], float32 or a `FrozenWeight`, targets [n] int32 in [0, vocab) → [n]
    float32. `rows` [k, width] stand in place of the rows of `weight` that `tokens` [k] int32 (no two alike) names: that
    is how single tokens are trained; `weight` is frozen then.
    `smoothing` ε: (1 − ε) of that and ε of the mean of −log softmax over the vocabulary, as torch's CrossEntropyLoss
    has it (Szegedy et al. 2016, section 7, https://arxiv.org/abs/1512.00567).
    """
    loss = _unsmoothed(hidden, weight, targets, tokens, rows)
    # the two differ by logits alone: (1 − ε)(L − z[target]) + ε(L − mean z) = L − z[target] + ε(z[target] − mean z)
    return loss + smoothing * _target_above_mean(hidden, weight, targets, tokens, rows) if smoothing else loss


def _unsmoothed(hidden, weight, targets, tokens, rows):
    if fused.products_on_cpu():
        return _HeadLoss.apply(hidden, weight, targets, tokens, rows)
    if isinstance(weight, FrozenWeight):
        return FrozenHeadLoss.apply(hidden, weight, targets, tokens, rows)
    if rows is None and fused.products_on_cuda("cross_entropy"):
        return HeadLossByBlocks.apply(hidden, weight, targets, None)
    return composed(hidden, weight, targets, tokens, rows)


def composed(hidden, weight, targets, tokens=None, rows=None):
    """`head_loss` in plain Jittor: the definition, for every device. It stores all logits, [n, vocab]."""
    logits = matmul(hidden, weight, transposed=True)  # [n, vocab]
    if rows is not None:
        logits = logits.setitem((slice(None), tokens), matmul(hidden, rows, transposed=True))
    shifted = logits - logits.max(-1, keepdims=True).stop_grad()
    log_sum = jt.log(jt.exp(shifted).sum(-1))
    is_target = jt.arange(logits.shape[-1]).unsqueeze(0) == targets.unsqueeze(1)
    return log_sum - (shifted * is_target).sum(-1)


def _target_above_mean(hidden, weight, targets, tokens, rows):
    """How far the logit of each row's target is above the mean of the row's logits, [n].

    A mean of logits is the logit of the mean of the weight's rows, so the others are not computed.
    """
    vocab = weight.shape[0]
    if isinstance(weight, FrozenWeight):
        total = weight.row_sum()  # [1, width]
    else:
        weight = weight.float32()  # of one that is kept in a half type
        total = jt.matmul(jt.ones((1, vocab)), weight)  # a product, for it is read along its rows
    of_target = weight[targets]  # [n, width]
    if rows is not None:
        total = total + (rows - weight[tokens]).sum(0, keepdims=True)
        is_replaced = (targets.unsqueeze(1) == tokens.unsqueeze(0)).float32()  # [n, k]
        of_target = of_target * (1 - is_replaced.sum(1, keepdims=True)) + jt.matmul(is_replaced, rows)
    return (hidden * (of_target - total / vocab)).sum(-1)


def proofs(rng: np.random.Generator):
    """Of CUDA's kernels: an odd vocabulary, so that rows begin anywhere; all rows at once, and in uneven blocks."""
    rows, width, vocab = 7, 20, 1003
    inputs = [rng.standard_normal((rows, width)), rng.standard_normal((vocab, width))]
    targets = np.array([0, vocab - 1, *rng.integers(0, vocab, rows - 2)], np.int32)
    for at_once in (rows, 3):
        yield Comparison(
            f"{rows} losses, {at_once} at once",
            lambda h, w, n=at_once: HeadLossByBlocks.apply(h, w, jt.array(targets), n * vocab),
            lambda h, w: composed(h, w, jt.array(targets)),
            inputs,
        )


@functools.cache
def multiplies_halves() -> bool:
    """Whether this processor has instructions for bfloat16: then an int8 table's products are made in it."""
    return bool(cpu.bf16_instructions())


def _table(weight, operand: Operand) -> str:
    """In C++, the table that the kernel goes through."""
    is_int8 = isinstance(weight, FrozenWeight) and weight.dtype == "int8"
    return f"{'in_halves' if is_int8 and multiplies_halves() else 'table_of'}({operand.cpp})"


class _HeadLoss(jt.Function):
    def execute(self, hidden, weight, targets, tokens, rows):
        """The losses [n]. The gradient by `hidden` [n, width] is made here too, while the logits are there.

        `stats` [n, 2] are each row's largest logit and sum of exponentials: from them `grad` finds the softmax again.
        """
        self.inputs = [hidden, weight, targets]
        self.rows, self.precision = rows, current_precision()
        self.weight_is_trained = frozen.is_trained(weight)
        count, width = hidden.shape
        more, replaced, names = [], 0, "nullptr, nullptr, 0"
        if rows is not None:
            more, replaced, names = [tokens, rows], rows.shape[0], "in3_p, in4_p, in4_shape0"
        trained = not jt.flags.no_grad  # else (evaluation) half of the work is left out
        operand = Operand.of(weight, 1, 3 + len(more), self.precision)
        loss, self.stats, self.by_hidden, self.by_replaced = fused.run(
            ["exp", *operand.kernels, "head_loss"],
            _HEAD.format(table=_table(weight, operand), replaced=names)
            + f"head_loss_forward(head, out0_p, out1_p, {'out2_p' if trained else 'nullptr'}, out3_p);",
            [[count], [count, 2], [count, width] if trained else [1, 1], [count, max(replaced, 1)]],
            [hidden, operand.first, targets, *more, *operand.more],
            **operand.numbers,
        )
        return loss

    def grad(self, dloss):
        """dloss [n] → the gradients by hidden [n, width], weight [vocab, width] and, where given, rows [k, width]."""
        hidden = self.inputs[0]
        by_hidden = self.by_hidden * dloss.unsqueeze(1)
        by_rows = None
        if self.rows is not None:
            by_rows = jt.matmul((self.by_replaced * dloss.unsqueeze(1)).transpose(), hidden)
        return by_hidden, self._by_weight(dloss) if self.weight_is_trained else None, None, None, by_rows

    def _by_weight(self, dloss):
        operand = Operand.of(self.inputs[1], 1, 5, self.precision)
        (by_weight,) = fused.run(
            ["exp", *operand.kernels, "head_loss"],
            _HEAD.format(table=_table(self.inputs[1], operand), replaced="nullptr, nullptr, 0")
            + "head_loss_by_weight(head, in3_p, in4_p, out0_p);",
            [self.inputs[1].shape],
            [*self.inputs, self.stats, dloss],
        )
        return by_weight
