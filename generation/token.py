"""A token that was chosen, and what is known of it. Needs no Jittor."""

from dataclasses import dataclass

import numpy as np

from generation.sampling import log_softmax

END, LENGTH = "end", "length"  # why a text ends: an end token, or no more tokens may follow


@dataclass(frozen=True)
class Token:
    """A token, and how probable the model finds it, in nats, before any option of sampling.

    `top`: the likeliest tokens with theirs, the likeliest first. `ends`: END or LENGTH for the last one of a text; an
    end token is delivered too. `kept`, of a text's first token: how many of its prompt's tokens were known from before.
    """

    id: int
    log_prob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    ends: str | None = None
    kept: int = 0


def described(token: int, logits: np.ndarray, top: int | None) -> Token:
    """A token with its log-probability after the model's logits, float32 [vocab], and the `top` likeliest ones'.

    Without either where `top` is None.
    """
    if top is None:
        return Token(token)
    log_probs = log_softmax(logits[None])[0]
    count = min(top, len(log_probs))
    best = np.argpartition(-log_probs, count - 1)[:count] if count else np.zeros(0, int)
    best = best[np.lexsort((best, -log_probs[best]))]  # of equal ones the first
    return Token(token, float(log_probs[token]), tuple((int(i), float(log_probs[i])) for i in best))
