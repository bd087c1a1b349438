"""Text, one token at a time, with a cache of keys and values."""

from collections.abc import Iterator, Sequence

import numpy as np

from common.errors import UserError
from gpt2_jittor.backend import jt
from gpt2_jittor.cache import KVCache
from gpt2_jittor.model import GPT2LMHeadModel
from gpt2_jittor.sampling import Sampler


def stream(
    model: GPT2LMHeadModel, prompt: Sequence[int], sample: Sampler, max_new_tokens: int, end_id: int | None
) -> Iterator[int]:
    """Yields the ids that follow `prompt`, until `end_id` (not yielded), `max_new_tokens` or the last position.

    Raises UserError for an empty prompt and for one that leaves no position free.
    """
    positions = model.config.n_positions
    if not len(prompt):
        raise UserError("the prompt is empty; give it some text")
    if len(prompt) >= positions:
        raise UserError(f"the prompt takes {len(prompt)} tokens; the model has {positions} positions: shorten it")
    training = model.is_training()
    model.eval()
    cache, ids, new = KVCache(), np.asarray(prompt, np.int64), np.asarray(prompt, np.int64)
    try:
        for _ in range(min(max_new_tokens, positions - len(prompt))):
            token = int(sample(last_logits(model, new[None], cache), [ids])[0])
            if token == end_id:
                return
            yield token
            new = np.array([token])
            ids = np.append(ids, token)
    finally:
        if training:
            model.train()


def last_logits(model: GPT2LMHeadModel, input_ids: np.ndarray, cache: KVCache, attention_mask=None) -> np.ndarray:
    """Logits of the last position alone, float32 [batch, vocab]; the cache takes up the ids."""
    with jt.no_grad():
        hidden = model.hidden(input_ids, attention_mask, cache)
        return model.lm_head(hidden[:, -1]).numpy()
