"""The norms that DoRA divides by, without the sum of weight and LoRA, and without a gradient."""

from gpt2_jittor.ops import fused
from gpt2_jittor.runtime.backend import jt

_CALL = """
    const bool transposed = in_other_order > 0;
    const Lora lora = {in1_p, in2_p, 0, in1_shape1, in2_shape0, in1_shape0, (float)scaling, 0, 0, 1.0f};
    lora_norms(lora, in0_p, transposed, in3_p, out0_p);
"""


def lora_norms(weight, a, b, squares, scaling: float, transposed: bool = False):
    """‖W + scaling (B A)ᵀ‖ of each column, [out]: √(‖w‖² + 2s b·(A w) + s² b (A Aᵀ) bᵀ).

    weight [in, out], or [out, in] where it is `transposed`, float32, of a half type or a `FrozenWeight`; a [r, in],
    b [out, r], `squares` [out] those of the weight's columns, float32. No gradient goes through it (Liu et al. 2024,
    section 4.3).
    """
    with jt.no_grad():
        weight = weight if weight.dtype == "float32" else weight.float32()  # no copy for nothing
        if not fused.products():
            return composed(weight, a, b, squares, scaling, transposed)
        # one operator, so that a run that is resumed rounds as one that was not
        kernels, numbers = ["shapes", "random", "sgemm", "projection", "lora"], {"in_other_order": float(transposed)}
        return fused.run(kernels, _CALL, [squares.shape], [weight, a, b, squares], scaling=scaling, **numbers)[0]


def composed(weight, a, b, squares, scaling: float, transposed: bool):
    """`lora_norms` in plain Jittor."""
    seen = jt.nn.matmul_transpose(weight, a) if transposed else jt.matmul(a, weight).transpose()  # [out, r]
    cross = (b * seen).sum(1)
    own = (jt.matmul(b, jt.nn.matmul_transpose(a, a)) * b).sum(1)
    return jt.sqrt(squares + 2 * scaling * cross + scaling**2 * own)
