"""A terminal that is played, and models that say what they are told to."""

from datasets import tasks
from generation import decoding
from generation.console import Console
from generation.decoding import Generated
from generation.engine import Engine
from generation.options import GenerationOptions
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


def reply_by_number(monkeypatch, tokenizer) -> list[str]:
    """Every model says " reply 1. ", " reply 2. " … to the prompts that gather in the list returned, in their order."""
    prompts = []

    def reply(ids) -> list[int]:
        prompts.append(tokenizer.decode(ids))
        return tokenizer.encode(f" reply {len(prompts)}. ")

    def generate(model, asked, *options):
        return [Generated(reply(ids), True, -3.0, 12) for ids in asked]

    monkeypatch.setattr(decoding, "stream", lambda model, ids, *options: iter(reply(ids)))
    monkeypatch.setattr(decoding, "generate", generate)
    return prompts
