"""Bytes that the operators bound by memory move, forward and backward: composed, and by the kernels for CUDA.

Composed: the arrays that Jittor's operators read and write, as its profiler counts them (on the CPU; what is fused with
what hardly depends on the device). Forward and backward are run one after the other, as other layers stand between.

The kernels: by formula, each array once; what they read a second time and the cache does not hold comes on top, and is
said in `kernels/cuda/*.cuh`. Nothing is timed.
"""

from collections.abc import Callable

from common.command import Parser, run_command
from gpt2_jittor.runtime import runtime

# GPT-2 small, 8 sequences of 128 tokens, 512 of which are scored; LoRA of rank 8 on c_attn, c_proj and c_fc
BATCH, TIME, WIDTH, HEADS, VOCAB, SCORED, MLP, TRAINED = 8, 128, 768, 12, 50257, 512, 3072, 1_327_104
TOKENS = BATCH * TIME
P = 0.1


def kernel_floats() -> dict[str, int]:
    """4-byte numbers that the kernels, and the products of the head, read and write."""
    logits, head = SCORED * VOCAB, VOCAB * WIDTH + SCORED * WIDTH
    return {
        # forward: x, y, two numbers a row, weight and bias; backward: dy, x, dx, the numbers, weight
        "layer_norm": 5 * TOKENS * WIDTH + 4 * TOKENS + 3 * WIDTH,
        "gelu_new": 5 * TOKENS * MLP,  # x, y; x, dy, dx
        "add_dropped": 5 * TOKENS * WIDTH,  # x, y, z; dz, dy
        # forward: qkv, out, softmax, mask; backward: qkv twice, dout twice, out, softmax twice, dqkv, a sum twice, mask
        "attention": (4 + 12) * TOKENS * WIDTH + (6 + 2) * HEADS * TOKENS + 3 * TOKENS,
        # both products, and between them the logits twice and their gradient; then the gradient by hidden, scaled
        "head_loss": 2 * head + 5 * logits + 2 * SCORED * WIDTH + 7 * SCORED,
        "adamw": 7 * TRAINED + 1,
        "sum_of_squares": TRAINED + 1,
    }


def works() -> dict[str, tuple[Callable, list[tuple]]]:
    """By operator, a function that applies it, and the shapes of the arrays that it takes gradients by."""
    from gpt2_jittor.ops.activation import gelu_new
    from gpt2_jittor.ops.adamw import adamw, sum_of_squares
    from gpt2_jittor.ops.attention import attention
    from gpt2_jittor.ops.dropout import add_dropped
    from gpt2_jittor.ops.head_loss import head_loss
    from gpt2_jittor.ops.layer_norm import layer_norm
    from gpt2_jittor.runtime.backend import jt

    def frozen(*shape):
        """Ones, float32, that take no gradient."""
        return jt.ones(shape).stop_grad()

    mask, targets = jt.ones((BATCH, TIME), "int32"), jt.ones((SCORED,), "int32")
    weight, bias, head, one = frozen(WIDTH), frozen(WIDTH), frozen(VOCAB, WIDTH), frozen(1)
    moments = [frozen(TRAINED) for _ in range(4)]
    jt.sync_all()
    return {
        "layer_norm": (lambda x: layer_norm(x, weight, bias, 1e-5), [(TOKENS, WIDTH)]),
        "gelu_new": (gelu_new, [(TOKENS, MLP)]),
        "add_dropped": (lambda x, y: add_dropped(x, y, P), [(TOKENS, WIDTH)] * 2),
        "attention": (lambda qkv: attention(qkv, mask, HEADS, 0.125, P), [(BATCH, TIME, 3 * WIDTH)]),
        "head_loss": (lambda hidden: head_loss(hidden, head, targets), [(SCORED, WIDTH)]),
        "adamw": (lambda: adamw(*([x] for x in moments), one, 1, 1e-3, [0.01], (0.9, 0.999), 1e-8), []),
        "sum_of_squares": (lambda: sum_of_squares(moments[:1]), []),
    }


def counted(function: Callable, shapes: list[tuple]) -> float:
    """Bytes that Jittor's operators read and write for a value and its gradients."""
    from gpt2_jittor.runtime.backend import jt

    class Given(jt.Function):
        """Stands for what comes behind: its gradient is there already."""

        def execute(self, y):
            """y → one number, so that `jt.grad` can begin here."""
            self.dy = dy[0]
            return y.sum()

        def grad(self, _):
            """The given gradient, shaped like y, in place of a computed one."""
            return self.dy

    inputs, dy = [jt.random(shape) for shape in shapes], [None]
    if shapes:
        dy[0] = jt.random(function(*inputs).shape)
    jt.sync_all()
    jt.profiler.start(0, 0)
    value = function(*inputs)
    gradients = jt.grad(Given.apply(value), inputs) if shapes else []
    values = value if isinstance(value, tuple) else ([value],)
    jt.sync([variable for several in values for variable in several])  # other layers come before the way back
    jt.sync(gradients)
    jt.profiler.stop()
    header, *rows = jt.profiler.report()
    rows = [dict(zip(header, row, strict=True)) for row in rows]
    # rates a second, of a time in nanoseconds; an operator that another was put in the place of has none
    return sum(float(row["InOut"]) * float(row["TotalTime"]) / 1e9 for row in rows)


def main() -> None:
    """Prints a row for each operator, in MiB."""
    Parser(prog="python -m tools.cuda.bytes", description=__doc__).parse_args()
    runtime.prepare("cpu")
    from gpt2_jittor.ops import fused

    kernels = kernel_floats()
    print(f"{'MiB moved, forward and backward':34}{'composed':>10}{'kernels':>10}{'times less':>12}")
    with fused.composed_only():
        for name, (function, shapes) in works().items():
            composed, ours = counted(function, shapes) / 2**20, 4 * kernels[name] / 2**20
            print(f"{name:34}{composed:10.1f}{ours:10.1f}{composed / ours:12.1f}", flush=True)


if __name__ == "__main__":
    run_command(main)
