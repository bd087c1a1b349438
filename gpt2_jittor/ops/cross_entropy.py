"""Cross-entropy of rows of logits."""

from gpt2_jittor.backend import jt
from gpt2_jittor.ops import fused


def cross_entropy(logits, targets):
    """−log softmax(logits)[target] of each row.

    logits [rows, classes] float32, targets [rows] int32, each in [0, classes) → [rows] float32.
    """
    return _CrossEntropy.apply(logits, targets) if fused.enabled() else composed(logits, targets)


def composed(logits, targets):
    shifted = logits - logits.max(-1, keepdims=True).stop_grad()
    log_sum = jt.log(jt.exp(shifted).sum(-1))
    is_target = jt.arange(logits.shape[-1]).unsqueeze(0) == targets.unsqueeze(1)
    return log_sum - (shifted * is_target).sum(-1)


class _CrossEntropy(jt.Function):
    def execute(self, logits, targets):
        self.logits, self.targets = logits, targets
        rows = logits.shape[0]
        loss, self.largest, self.sums = fused.run(
            ["exp", "cross_entropy"],
            "cross_entropy_forward(in0_p, in1_p, out0_p, out1_p, out2_p, in0_shape0, in0_shape1);",
            [[rows]] * 3,
            [logits, targets],
        )
        return loss

    def grad(self, dloss):
        (dlogits,) = fused.run(
            ["exp", "cross_entropy"],
            "cross_entropy_backward(in0_p, in1_p, in2_p, in3_p, in4_p, out0_p, in0_shape0, in0_shape1);",
            [self.logits.shape],
            [self.logits, self.targets, self.largest, self.sums, dloss],
        )
        return dlogits, None
