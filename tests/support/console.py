"""A terminal that is played, and models that say what they are told to."""

from collections.abc import Callable

import numpy as np

from datasets import tasks
from generation import running
from generation.console import Console
from generation.engine import Engine
from generation.options import GenerationOptions
from generation.text import Generated
from generation.token import Token
from gpt2_jittor.checkpoint.tokenizer import load_tokenizer


def session(folder, model, task: str, as_json: bool = False, max_length: int | None = None, **options) -> Console:
    """A conversation with the model, greedy unless the options say otherwise."""
    how = GenerationOptions(**{"max_new_tokens": 20, "greedy": True, **options})
    return Console(Engine(model, load_tokenizer(folder), tasks.find(task), how, max_length), as_json)


def type_in(monkeypatch, *lines) -> list[str]:
    """Types lines, then ends the input; returns the signs they were asked with."""
    typed, asked = iter(lines), []

    def read(sign):
        asked.append(sign)
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", read)
    return asked


def let_say(monkeypatch, reply: Callable[[np.ndarray], Generated]) -> None:
    """Every engine's model continues a prompt by the ids that `reply` gives to its ids, and an end token."""

    def continued(model, texts, *more):
        for text in texts:
            said = reply(text.prompt)
            text.result = lambda said=said: said
            for token in [*said.ids, *text.ends]:
                yield text, text.take(Token(token))

    monkeypatch.setattr(running, "continued", continued)


def record_drawn(monkeypatch) -> list[tuple[np.ndarray, Generated]]:
    """What engines are asked and what comes of it, of each text, as long as there are no beams."""
    drawn, original = [], running.continued

    def recording(model, texts, *more):
        yield from original(model, texts, *more)
        drawn.extend((text.prompt, text.result()) for text in texts)

    monkeypatch.setattr(running, "continued", recording)
    return drawn


def reply_by_number(monkeypatch, tokenizer) -> list[str]:
    """Every model says " reply 1. ", " reply 2. " … to the prompts that gather in the list returned, in their order."""
    prompts = []

    def reply(ids) -> list[int]:
        prompts.append(tokenizer.decode(ids))
        return tokenizer.encode(f" reply {len(prompts)}. ")

    let_say(monkeypatch, lambda ids: Generated(reply(ids), True, -3.0, 12))
    return prompts
