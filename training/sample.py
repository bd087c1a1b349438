"""What a run replies to at each validation: a prompt whose greedy reply is read beside the number. Needs no Jittor."""

from dataclasses import dataclass

import numpy as np

from common.errors import UserError
from datasets.example import Example
from datasets.task import Task

MOST_TOKENS = 40  # of the reply
SHOWN = 160  # characters of what it replies to


@dataclass(frozen=True)
class SamplePrompt:
    """The `text` that is shown of the prompt, and the whole of it as `input_ids`, int32 [time].

    The reply ends with one of `end_ids`, or after `max_new_tokens`.
    """

    text: str
    input_ids: np.ndarray
    max_new_tokens: int
    end_ids: tuple[int, ...]


def sample_prompt(
    task: Task, example: Example, tokenizer, n_positions: int, end_ids: tuple[int, ...]
) -> SamplePrompt | None:
    """A task's example as a prompt. None where nothing is asked or answered, and for one that is too long."""
    if task.kind.answer_tokens is None or not example.opening:
        return None
    length = min(MOST_TOKENS, n_positions // 2)
    # an opening says most about a chatbot
    given = Example(example.segments[: len(example.opening) + 1]).given if task.kind.remembers else example.given
    try:
        input_ids = task.encode_prompt(given, tokenizer, n_positions - length)[0]
    except UserError:  # too long for this model: the loss alone, then
        return None
    text = " ".join("".join(segment.text for segment in given.segments).split())[-SHOWN:]
    return SamplePrompt(text, input_ids, length, end_ids)
