"""GPT-2 as a classifier: the body under `score`, one row a class, read at each text's last token."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from common.errors import UserError
from gpt2_jittor.checkpoint.config import GPT2Config
from gpt2_jittor.checkpoint.initial import initial_head
from gpt2_jittor.checkpoint.stored import HEAD, SCORE, StoredModel
from gpt2_jittor.model.ids import check_ids, on_host
from gpt2_jittor.model.layers import Head
from gpt2_jittor.model.pretrained import GPT2PreTrained, in_own_precision
from gpt2_jittor.runtime.backend import jt


class GPT2ForSequenceClassification(GPT2PreTrained):
    """transformers' class of that name. `config.labels` names the classes."""

    unused = (HEAD,)  # a language model's, where it has one of its own: `score` stands in its place

    def _add_head(self) -> None:
        if not self.config.labels:
            raise UserError("this model names no classes: give them as `labels`, or a classifier's folder")
        self.score = Head(self.config.n_embd, len(self.config.labels))

    @classmethod
    def _head_of(
        cls, stored: StoredModel, labels: Sequence[str] | None = None, seed: int = 0
    ) -> tuple[GPT2Config, dict[str, np.ndarray]]:
        """A classifier's own head, or for a language model's folder a new one for `labels`, drawn from `seed`.

        Raises UserError where a language model comes without `labels`, and where a classifier has others.
        """
        config = stored.config
        if SCORE in stored.tensors:
            if labels is not None and tuple(labels) != config.labels:
                raise UserError(f"{stored.directory} tells {_listed(config.labels)} apart, not {_listed(labels)}")
            return config, {}
        config = dataclasses.replace(config, labels=tuple(labels or ()) or None)
        return config, {SCORE: initial_head(config, len(labels or ()), seed)}

    @in_own_precision
    def execute(self, input_ids, attention_mask=None):
        """The scores of each class, float32 [batch, labels], read at the last token that the mask shows.

        ids and mask [batch, time] as of `hidden`; pads may stand on either side. Raises ValueError besides
        for a row without a token.
        """
        return self.score(self._last(input_ids, attention_mask))

    def _last(self, input_ids, attention_mask):
        """The hidden states of each row's last token, [batch, width]."""
        mask = np.ones(np.shape(input_ids)) if attention_mask is None else on_host(attention_mask)
        rows, time = mask.shape
        if not (mask != 0).any(axis=1).all():
            raise ValueError("a row has no token: attention_mask hides all of it")
        last = time - 1 - (mask[:, ::-1] != 0).argmax(axis=1)
        hidden = self.hidden(input_ids, attention_mask)
        flat = (np.arange(rows) * time + last).astype(np.int32)  # [batch], places in [batch * time]
        return hidden.reshape(-1, hidden.shape[-1])[jt.array(flat)]

    @in_own_precision
    def losses(self, input_ids, classes, attention_mask=None):
        """The cross-entropy of each row, in nats, [batch]; `classes` [batch] are indexes into `config.labels`.

        In training mode labels are smoothed as `label_smoothing` says.
        """
        classes = on_host(classes)
        check_ids(classes, len(self.config.labels), "classes", "classifier")
        targets = jt.array(classes.astype(np.int32))
        return self.score.losses(self._last(input_ids, attention_mask), targets, self.smoothing)

    def loss(self, input_ids, classes, attention_mask=None):
        """The mean of `losses`: a Var of one element."""
        return self.losses(input_ids, classes, attention_mask).mean()


def _listed(labels: Sequence[str] | None) -> str:
    return ", ".join(labels or ("nothing",))
