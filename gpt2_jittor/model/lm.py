"""GPT-2 as a language model: the body under a head that tells the next token."""

import dataclasses

import numpy as np

from gpt2_jittor.checkpoint.config import GPT2Config
from gpt2_jittor.model.ids import check_ids, on_host
from gpt2_jittor.model.layers import Head, TiedHead, is_tied
from gpt2_jittor.model.pretrained import GPT2PreTrained, in_own_precision
from gpt2_jittor.ops.dropout import dropout
from gpt2_jittor.runtime.backend import jt

IGNORED = -100  # the label of a position that is not scored, as in PyTorch


class GPT2LMHeadModel(GPT2PreTrained):
    """GPT-2 with its language-model head. `head_dropout`: on the hidden states that enter it, in training."""

    head_dropout = 0.0

    def _add_head(self) -> None:
        if self.config.tie_word_embeddings:
            self.lm_head = TiedHead(self.transformer.wte)
        else:
            self.lm_head = Head(self.config.n_embd, self.config.vocab_size)

    def stored(self) -> tuple[GPT2Config, dict[str, np.ndarray]]:
        config, tensors = super().stored()
        tied = is_tied(self.lm_head, self.transformer.wte)
        if not tied:
            tensors["lm_head.weight"] = self.lm_head.weight.numpy()
        return dataclasses.replace(config, tie_word_embeddings=tied), tensors

    @in_own_precision
    def execute(self, input_ids, attention_mask=None, cache=None):
        """Logits float32 [batch, time, vocab]; arguments and errors as of `hidden`."""
        hidden = self.hidden(input_ids, attention_mask, cache)
        batch, time, width = hidden.shape
        # the head takes rows: [batch * time, width] -> [batch * time, vocab]
        return self.lm_head(hidden.reshape(-1, width)).reshape(batch, time, -1)

    def loss(self, input_ids, labels, attention_mask=None):
        """Mean cross-entropy, in nats, over the labels that are not −100: a Var of one element.

        `labels` [batch, time] stand where their token stands in `input_ids`; the shift happens here.
        Raises ValueError where nothing is scored or a label is outside the vocabulary.
        """
        return self.losses(input_ids, labels, attention_mask).mean()

    @in_own_precision
    def losses(self, input_ids, labels, attention_mask=None):
        """The cross-entropy of each scored position, [scored], in reading order; arguments and errors as of `loss`.

        In training mode labels are smoothed as `label_smoothing` says.

        The head's product, the largest of the model, is computed for scored positions alone.
        """
        labels = on_host(labels)
        if labels.shape != np.shape(input_ids):
            raise ValueError(f"labels are {list(labels.shape)}, input_ids {list(np.shape(input_ids))}")
        targets = np.full_like(labels, IGNORED)
        targets[:, :-1] = labels[:, 1:]
        targets = targets.reshape(-1)  # [batch * time]
        rows = np.flatnonzero(targets != IGNORED).astype(np.int32)
        if not len(rows):
            raise ValueError("no label is scored: every one is -100 or stands at the first position")
        targets = targets[rows]
        check_ids(targets, self.config.vocab_size, "labels")
        hidden = self.hidden(input_ids, attention_mask)
        hidden = hidden.reshape(-1, hidden.shape[-1])[jt.array(rows)]  # [scored, width]
        hidden = dropout(hidden, self.head_dropout if self.is_training() else 0.0)
        return self.lm_head.losses(hidden, jt.array(targets.astype(np.int32)), self.smoothing)
