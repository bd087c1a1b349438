"""Log-probabilities of tokens, in the two forms that OpenAI's API has for them."""

from collections.abc import Sequence
from typing import Any

from serving.answers import Scored
from serving.pieces import Pieces
from serving.work import Token

LEAST = -9999.0  # OpenAI's word for what has no probability: JSON has no -inf
MOST_TOP = 20  # likeliest tokens beside each


def of_completion(scored: Sequence[Scored], top: int, pieces: Pieces, start: int = 0) -> dict[str, list]:
    """The form of completions. `start`: where the text in which the tokens' offsets count begins.

    Of tokens that are spelled alike the likeliest one's counts; the chosen one is always among them. A text's first
    token, which nothing is before, has null for both.
    """
    return {
        "tokens": [pieces.name(each.token.id) for each in scored],
        "token_logprobs": [_log_prob(each.token.log_prob) for each in scored],
        "top_logprobs": [_by_name(each.token, top, pieces) for each in scored],
        "text_offset": [start + each.offset for each in scored],
    }


def of_chat(scored: Sequence[Scored], top: int, pieces: Pieces) -> dict[str, Any]:
    """The form of chats."""
    return {
        "content": [
            _entry(each.token.id, each.token.log_prob, pieces)
            | {"top_logprobs": [_entry(token, value, pieces) for token, value in each.token.top[:top]]}
            for each in scored
        ],
        "refusal": None,
    }


def _by_name(token: Token, top: int, pieces: Pieces) -> dict[str, float] | None:
    if token.log_prob is None:
        return None
    found: dict[str, float] = {}
    for other, value in (*token.top[:top], (token.id, token.log_prob)):
        found.setdefault(pieces.name(other), _log_prob(value))
    return found


def _entry(token: int, log_prob: float | None, pieces: Pieces) -> dict[str, Any]:
    return {"token": pieces.name(token), "logprob": _log_prob(log_prob), "bytes": list(pieces.data(token))}


def _log_prob(value: float | None) -> float | None:
    return None if value is None else max(LEAST, float(value))
