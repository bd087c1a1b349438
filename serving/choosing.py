"""How a request wants its tokens to be chosen: what it says, and for the rest what is said of the model it names."""

from dataclasses import dataclass

import numpy as np

from generation.sampling import Choice, Sampler, Step, add_bias, against_repetition, penalize_frequency
from serving.body import Fields, is_number, kind, short, short_text
from serving.errors import invalid
from serving.work import Served

MOST_BIASES = 1024  # entries of logit_bias
SEEDS = 2**64  # a seed is taken modulo this: clients send negative ones, too


@dataclass(frozen=True)
class Choosing:
    """The options of one request, all of them settled. `bias`: ids and what is added to their logits."""

    choice: Choice
    repetition_penalty: float
    no_repeat_ngram_size: int
    frequency_penalty: float
    presence_penalty: float
    bias: tuple[tuple[int, float], ...]
    seed: int | None

    def sampler(self, prompt_tokens: int, draw: int) -> Sampler:
        """What chooses the tokens behind a prompt of this length; each `draw` of a prompt has a seed of its own."""
        steps: list[Step] = against_repetition(self.repetition_penalty, self.no_repeat_ngram_size)
        frequency, presence = self.frequency_penalty, self.presence_penalty
        if frequency or presence:
            steps.append(lambda logits, ids: penalize_frequency(logits, ids, frequency, presence, prompt_tokens))
        if self.bias:
            biased, values = np.array([i for i, _ in self.bias]), np.array([v for _, v in self.bias], np.float32)
            steps.append(lambda logits, ids: add_bias(logits, biased, values))
        return Sampler(steps, self.choice, None if self.seed is None else (self.seed + draw) % SEEDS)


def read_choosing(fields: Fields, served: Served) -> Choosing:
    """Takes these options out of a request's fields. Raises ApiError for what is out of bounds."""
    options = served.options
    temperature = fields.number("temperature", least=0, most=2)
    top_k = fields.whole("top_k", options.top_k, least=-1)
    seed = fields.whole("seed", options.seed, least=-(2**63), most=2**64 - 1)
    settled = options.temperature if temperature is None else temperature
    choice = Choice(
        greedy=settled == 0 or (temperature is None and options.greedy),
        temperature=settled,
        top_k=max(0, top_k),  # -1 is off, too, as in vLLM
        top_p=fields.number("top_p", options.top_p, least=0, most=1),
        min_p=fields.number("min_p", options.min_p, least=0, most=1),
    )
    return Choosing(
        choice,
        fields.number("repetition_penalty", options.repetition_penalty, least=0, most=100, above=True),
        options.no_repeat_ngram_size,
        fields.number("frequency_penalty", 0.0, least=-2, most=2),
        fields.number("presence_penalty", 0.0, least=-2, most=2),
        _bias(fields, served.vocab_size),
        seed,
    )


def _bias(fields: Fields, vocab_size: int) -> tuple[tuple[int, float], ...]:
    given = fields.any("logit_bias", {})
    if not isinstance(given, dict) or len(given) > MOST_BIASES:
        raise invalid("logit_bias", f"must be an object of at most {MOST_BIASES} token ids, not {kind(given)}")
    found: dict[int, float] = {}
    for name, value in given.items():
        token = int(name) if name.isascii() and name.isdecimal() and len(name) < 10 else vocab_size
        if token >= vocab_size:
            raise invalid("logit_bias", f"{short_text(name)!r} is no token's id: they go from 0 to {vocab_size - 1}")
        if not is_number(value) or not -100 <= value <= 100:
            raise invalid("logit_bias", f"of token {token} must be a number from -100 to 100, not {short(value)}")
        found[token] = float(value)
    return tuple(found.items())
