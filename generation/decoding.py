"""Ids after ids: one prompt as a stream, or several together. Engines and servers use `running.py` itself."""

from collections.abc import Iterator, Sequence

from generation.prefixes import Prefixes
from generation.running import continued
from generation.sampling import Sample
from generation.text import EndIds, Generated, Text, end_set, max_answer_tokens
from generation.token import END
from gpt2_jittor.model.lm import GPT2LMHeadModel


def stream(
    model: GPT2LMHeadModel,
    prompt: Sequence[int],
    sample: Sample,
    max_new_tokens: int,
    end_id: EndIds,
    prefixes: Prefixes | None = None,
) -> Iterator[int]:
    """Yields the ids that follow `prompt`, until an end token (not yielded), `max_new_tokens` or the last position.

    `end_id`: an end token, several of which each ends the text, or None. `prefixes`: as of `continued`.
    Raises UserError for an empty prompt and for one that leaves no position free.
    """
    (limit,) = max_answer_tokens([prompt], max_new_tokens, model.config.n_positions)
    text = Text(prompt, sample, limit, end_set(end_id))
    for _, token in continued(model, [text], 1, prefixes):
        if token.ends != END:
            yield token.id


def generate(
    model: GPT2LMHeadModel, prompts: Sequence[Sequence[int]], sample: Sample, max_new_tokens: int, end_id: EndIds
) -> list[Generated]:
    """Continues prompts of any lengths together: each as `stream` would.

    A greedy `sample` gives the ids that `stream` gives; one that draws, draws for the texts in turn. Arguments and
    errors are else those of `stream`.
    """
    limits, ends = max_answer_tokens(prompts, max_new_tokens, model.config.n_positions), end_set(end_id)
    texts = [Text(prompt, sample, limit, ends, top=0) for prompt, limit in zip(prompts, limits, strict=True)]
    for _ in continued(model, texts, len(texts)):
        pass
    return [text.result() for text in texts]
