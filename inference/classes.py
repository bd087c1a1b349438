"""Classes of texts, with their probabilities."""

from collections.abc import Sequence

import numpy as np

from datasets.batches import collate
from datasets.encode import Encoded
from datasets.example import Example, Task


def probabilities(
    model, tokenizer, task: Task, examples: Sequence[Example], batch_size: int = 16, max_length: int | None = None
) -> list[dict[str, float]]:
    """For each example its classes' probabilities, likeliest first: softmax of the scores, summing to 1.

    Texts are cut to `max_length` tokens, as they were in training, or to what the model can read.
    """
    from gpt2_jittor.backend import jt

    found, length = [], min(max_length or model.config.n_positions, model.config.n_positions)
    for start in range(0, len(examples), batch_size):
        ids = [task.encode_prompt(e, tokenizer, length)[0] for e in examples[start : start + batch_size]]
        batch = collate([Encoded(i, i) for i in ids], tokenizer.pad_token_id)
        with jt.no_grad():
            logits = model(batch.input_ids, batch.attention_mask).numpy().astype(np.float64)
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        found += [{task.labels[k]: float(row[k]) for k in np.argsort(-row)} for row in shares]
    return found
