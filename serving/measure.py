"""What a request asks of a model at once: how probable a text is, its mean hidden state, its class."""

import numpy as np

from generation.scoring import class_shares
from generation.token import Token, described
from gpt2_jittor.model.lm import GPT2LMHeadModel
from gpt2_jittor.model.pretrained import GPT2PreTrained
from gpt2_jittor.ops.matmul import products_in
from gpt2_jittor.runtime.backend import jt
from serving.work import Classification, Embedding, Scoring

POSITIONS = 64  # whose logits are made together: 13 MB for GPT-2's vocabulary


def measured(model: GPT2PreTrained, work: Scoring | Embedding | Classification):
    """What is asked, of a model whose adapter is chosen, as `work` says."""
    if isinstance(work, Scoring):
        return token_scores(model, work.ids, work.top)
    return mean_state(model, work.ids) if isinstance(work, Embedding) else class_shares(model, work.ids[None])[0]


def token_scores(model: GPT2LMHeadModel, ids: np.ndarray, top: int) -> list[Token]:
    """Each of the ids [time] but the first, with its log-probability after those before it."""
    found = []
    with jt.no_grad(), products_in(model.precision):
        hidden = model.hidden(ids[None])[0]  # [time, width]
        hidden.sync()
        for start in range(0, len(ids) - 1, POSITIONS):
            end = min(start + POSITIONS, len(ids) - 1)
            logits = model.lm_head(hidden[start:end]).numpy()
            found += [described(int(ids[start + i + 1]), row, top) for i, row in enumerate(logits)]
    return found


def mean_state(model: GPT2PreTrained, ids: np.ndarray) -> np.ndarray:
    """The mean over a text's tokens of the hidden states after the last norm, float32 [width]."""
    with jt.no_grad():
        return model.hidden(ids[None])[0].mean(0).numpy()
