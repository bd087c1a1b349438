"""Each row's next token, chosen on CUDA, so that the logits need not come to the host.

What each option means is defined by `generation/sampling.py`, in numpy, which runs elsewhere. Greedy choices and what
top_k leaves are the same as there; top_p's border, min_p's and the place that a uniform number falls on agree to the
rounding of a sum of exponentials in float32, about 1e-6 of it.
"""

import numpy as np

from gpt2_jittor.ops import fused
from gpt2_jittor.ops.proof import Comparison
from gpt2_jittor.runtime.backend import jt


def choose(logits, uniforms=None, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0):
    """Of logits [rows, vocab], float32 → [rows, 2]: the token, and the logarithm of its probability.

    uniforms [rows], in [0, 1): where in the cumulated probabilities of what the options leave each token is drawn;
    None: the likeliest is taken, whatever they are. The probability is that of the logits as they are. Where a row
    holds NaN, +inf, or nothing but -inf, its token is -1.
    """
    inputs = [logits]
    if uniforms is not None:
        # two at least: Jittor takes an array of one element for a number, and compiles some of them in
        inputs.append(jt.array(np.resize(uniforms, max(2, len(uniforms))).astype(np.float32)))
    (chosen,) = fused.run(
        ["choose"],
        f"choose(in0_p, {'nullptr' if uniforms is None else 'in1_p'}, out0_p, in0_shape0, in0_shape1,"
        " {(float)temperature, (long)top_k, (float)beyond, (float)min_p});",
        [[logits.shape[0], 2]],
        inputs,
        temperature=temperature,
        top_k=top_k,
        beyond=1 - top_p,
        min_p=min_p,
    )
    return chosen


def composed(logits, uniforms=None, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0):
    """`choose` in plain Jittor, of finite logits: a definition to compare with, as it compares each two of a row."""
    vocab = logits.shape[1]
    ids = jt.arange(vocab).float32()
    below = logits - logits.max(-1, keepdims=True)
    if uniforms is None:
        token = (ids + vocab * (below < 0).float32()).min(-1, keepdims=True)  # of equals the first
    else:
        scaled = below / temperature
        mass = jt.exp(scaled)
        one, other = scaled.unsqueeze(2), scaled.unsqueeze(1)  # [rows, id, 1], [rows, 1, other id]
        not_behind = (ids.unsqueeze(0) <= ids.unsqueeze(1)).float32()  # [id, other id]
        if top_k:
            mass = mass * ((other > one).float32().sum(-1) < top_k).float32()
        if top_p < 1:  # in ascending order, as after a stable sort
            up_to = (other < one).float32() + (other == one).float32() * not_behind
            reached = (up_to * mass.unsqueeze(1)).sum(-1) / mass.sum(-1, keepdims=True)
            largest = (up_to.sum(-1) == vocab).float32()
            mass = mass * jt.maximum((reached > 1 - top_p).float32(), largest)
        mass = mass * (mass >= min_p).float32()
        cumulated = (mass.unsqueeze(1) * not_behind).sum(-1)  # [rows, vocab]
        points = jt.array(np.asarray(uniforms, np.float32).reshape(-1, 1)) * mass.sum(-1, keepdims=True)
        token = (cumulated <= points).float32().sum(-1, keepdims=True)
    log_prob = (below * (ids == token).float32()).sum(-1, keepdims=True) - jt.log(jt.exp(below).sum(-1, keepdims=True))
    return jt.concat([token, log_prob], dim=1)


def proofs(rng: np.random.Generator):
    """Each way to choose, of a vocabulary of more than a block's threads; tokens and log-probabilities apart."""
    logits, uniforms = 3 * rng.standard_normal((3, 1203)), rng.random(3)
    ways = [{}, {"temperature": 0.7}, {"top_k": 40}, {"top_p": 0.9}, {"min_p": 0.1}]
    ways += [{"temperature": 1.3, "top_k": 90, "top_p": 0.8, "min_p": 0.02}]
    for given, options in [(None, {}), *((uniforms, options) for options in ways)]:

        def chosen_by(function, given=given, options=options):
            return lambda logits: list(jt.chunk(function(logits, given, **options), 2, dim=1))

        what = "the likeliest token" if given is None else f"a token drawn with {options}"
        yield Comparison(what, chosen_by(choose), chosen_by(composed), [logits], gradient=False)
