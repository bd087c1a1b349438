"""Each row's next token, chosen where the logits are: on CUDA they need not come to the host.

What each option means is defined by `generation/sampling.py`, in numpy, which runs where these kernels do not. Greedy
choices and what top_k leaves are the same as there; top_p's border, min_p's and the place that a uniform number falls
on agree to the rounding of a sum of exponentials in float32, about 1e-6 of it.
"""

import numpy as np

from gpt2_jittor.ops import fused
from gpt2_jittor.ops.proof import Comparison
from gpt2_jittor.runtime.backend import jt


def choice(
    uniform: float | None = None, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> list[float]:
    """How a row's token is chosen, as `choose` takes it: `Choice` of kernels/choice.h.

    uniform, in [0, 1): where in the cumulated probabilities of what the options leave it is drawn; None: the likeliest
    is taken, whatever they are.
    """
    return [-1.0 if uniform is None else uniform, temperature, top_k, 1 - top_p, min_p]


def choose(logits, choices):
    """Of logits [rows, vocab] and each row's `choice`, all float32 → [rows, 2]: token, logarithm of its probability.

    The probability is that of the logits as they are. Where a row holds NaN, +inf, or nothing but -inf, its token is
    -1.
    """
    (chosen,) = fused.run(
        ["exp", "bits", "choice", "choose"],
        "choose(in0_p, (const Choice*)in1_p, out0_p, in0_shape0, in0_shape1);",
        [[logits.shape[0], 2]],
        [logits, choices],
    )
    return chosen


def composed(logits, choices):
    """`choose` in plain Jittor, of finite logits: a definition to compare with, as it compares each two of a row."""
    vocab = logits.shape[1]
    ids = jt.arange(vocab).float32()
    uniform, temperature, top_k, beyond, min_p = (choices[:, i : i + 1] for i in range(5))
    below = logits - logits.max(-1, keepdims=True)
    likeliest = (ids + vocab * (below < 0).float32()).min(-1, keepdims=True)  # of equals the first
    scaled = below / temperature
    one, other = scaled.unsqueeze(2), scaled.unsqueeze(1)  # [rows, id, 1], [rows, 1, other id]
    not_behind = (ids.unsqueeze(0) <= ids.unsqueeze(1)).float32()  # [id, other id]
    above = (other > one).float32().sum(-1)
    mass = jt.exp(scaled) * jt.maximum((above < top_k).float32(), (top_k == 0).float32())
    up_to = (other < one).float32() + (other == one).float32() * not_behind  # ascending, as a stable sort
    reached = (up_to * mass.unsqueeze(1)).sum(-1) / mass.sum(-1, keepdims=True)
    largest = (up_to.sum(-1) == vocab).float32()
    mass = mass * jt.maximum(jt.maximum((reached > beyond).float32(), largest), (beyond == 0).float32())
    mass = mass * (mass >= min_p).float32()
    cumulated = (mass.unsqueeze(1) * not_behind).sum(-1)  # [rows, vocab]
    drawn = (cumulated <= uniform * mass.sum(-1, keepdims=True)).float32().sum(-1, keepdims=True)
    token = jt.ternary(uniform < 0, likeliest, drawn)
    log_prob = (below * (ids == token).float32()).sum(-1, keepdims=True) - jt.log(jt.exp(below).sum(-1, keepdims=True))
    return jt.concat([token, log_prob], dim=1)


def proofs(rng: np.random.Generator):
    """Each way to choose, of a vocabulary of more than a block's threads; tokens and log-probabilities apart."""
    logits, uniforms = 3 * rng.standard_normal((3, 1203)), rng.random(3)
    ways = [{}, {"temperature": 0.7}, {"top_k": 40}, {"top_p": 0.9}, {"min_p": 0.1}]
    ways += [{"temperature": 1.3, "top_k": 90, "top_p": 0.8, "min_p": 0.02}]
    drawn = [(f"a token drawn with {way}", [choice(number, **way) for number in uniforms]) for way in ways]

    def chosen_by(function):
        return lambda logits, choices: list(jt.chunk(function(logits, choices), 2, dim=1))

    for what, choices in [("the likeliest token", [choice()] * 3), *drawn]:
        yield Comparison(what, chosen_by(choose), chosen_by(composed), [logits, np.array(choices)], gradient=False)
