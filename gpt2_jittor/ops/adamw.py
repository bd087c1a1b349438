"""One update of Adam with decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2), as torch computes it."""

import math

import numpy as np

from gpt2_jittor.backend import jt
from gpt2_jittor.ops import fused


def adamw(parameter, gradient, first, second, scale, step: int, rate: float, decay: float, betas, eps: float):
    """The new parameter, first and second moment, each shaped like `parameter`, float32.

    g = gradient · scale;  m = β₁ m + (1 − β₁) g;  v = β₂ v + (1 − β₂) g²
    p = p (1 − rate · decay) − rate / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + eps)

    `scale` is a Var of one element, `step` is t, the number of this update, from 1.
    """
    numbers = {
        "keep": 1 - rate * decay,
        "step_size": rate / (1 - betas[0] ** step),
        "correction": 1 / math.sqrt(1 - betas[1] ** step),
    }
    if not fused.enabled():
        return composed(parameter, gradient, first, second, scale, betas, eps, **numbers)
    shape, flat = parameter.shape, [parameter.numel()]
    outputs = fused.run(
        ["adamw"],
        "adamw(in0_p, in1_p, in2_p, in3_p, in4_p, out0_p, out1_p, out2_p, in0_shape0,"
        " keep, step_size, correction, beta1, beta2, eps);",
        [flat] * 3,
        [*(value.reshape(-1) for value in (parameter, gradient, first, second)), scale],
        beta1=betas[0],
        beta2=betas[1],
        eps=eps,
        **numbers,
    )
    return tuple(output.reshape(shape) for output in outputs)


def composed(parameter, gradient, first, second, scale, betas, eps: float, keep, step_size, correction):
    # numbers that change every step travel as data: some of them Jittor would compile in as constants
    keep, step_size, correction = (
        jt.array(np.array([number] * 2, np.float32))[:1] for number in (keep, step_size, correction)
    )
    gradient = gradient * scale
    first = betas[0] * first + (1 - betas[0]) * gradient
    second = betas[1] * second + (1 - betas[1]) * gradient * gradient
    return parameter * keep - step_size * first / (jt.sqrt(second) * correction + eps), first, second
