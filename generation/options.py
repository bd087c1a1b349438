"""How tokens are chosen: what was typed, else what the model's folder says, else the defaults of a conversation.

A folder's `generation_config.json` names settings that its maker found good: each is the default of its option. What
was typed wins, and puts aside what it leaves no place for: `--greedy` the folder's ways to draw and its beams,
`--temperature` its `"do_sample": false`.
"""

import json
from dataclasses import dataclass
from typing import Any

from common.errors import UserError
from generation.sampling import Sampler, check_length_penalty, check_num_beams, make_sampler
from generation.stopping import Stopper
from gpt2_jittor.config import GPT2Config
from gpt2_jittor.demand import check_decoding
from gpt2_jittor.generation_config import GenerationConfig

DRAWING = ("temperature", "top_k", "top_p", "min_p")
BEAMS = ("num_beams", "length_penalty", "early_stopping")
# where nobody says anything; by transformers' names, as a folder's settings
DEFAULTS = {
    "max_new_tokens": 80,
    "temperature": 0.7,
    "top_k": 0,
    "top_p": 0.9,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "length_penalty": 1.0,
    "early_stopping": False,
}
OURS = {"no_repeat_ngram_size": "no_repeat_ngram"}  # the names that differ here
INSTEAD = {"max_length": "max_new_tokens", "stop_strings": "stop", "num_return_sequences": "samples"}


@dataclass(frozen=True)
class GenerationOptions:
    """How tokens are chosen. `best_of` answers are drawn, and the `samples` likeliest of them kept."""

    max_new_tokens: int = 80
    greedy: bool = True
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | str = False  # of the beams
    stop: tuple[str, ...] = ()
    samples: int = 1
    best_of: int = 1
    seed: int | None = None
    batch_size: int = 16
    end_ids: tuple[int, ...] | None = None  # each of them ends an answer; else the tokenizer's end token

    def sampler(self) -> Sampler:
        """What chooses the next token. Raises UserError for an option out of range."""
        return make_sampler(
            greedy=self.greedy,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            no_repeat_ngram_size=self.no_repeat_ngram,
            seed=self.seed,
        )

    @property
    def draws(self) -> int:
        """How many answers to each prompt are made."""
        return max(self.best_of, self.samples)

    @property
    def streams(self) -> bool:
        """Whether an answer can be shown while it is made: nothing is chosen among several."""
        return self.num_beams == self.draws == 1

    def check(self, config: GPT2Config, inputs: int = 1) -> None:
        """Raises UserError for an option out of range, and where a model of this size cannot generate so much at once
        for so many inputs. It is known before the model is read.
        """
        self.sampler()
        Stopper(self.stop)
        if self.num_beams > 1:
            check_num_beams(self.num_beams, config.vocab_size)
        each = max(self.num_beams, self.draws)
        rows = each * min(inputs, max(1, self.batch_size // each))
        options = "--num-beams" if self.num_beams > 1 else "--best-of or --samples" if each > 1 else "--batch-size"
        check_decoding(config, rows, self.max_new_tokens, f"{options}, or --max-new-tokens")

    def max_prompt_tokens(self, positions: int) -> int:
        """How long a prompt may be, so that the longest answer still fits into `positions`; half of them at least."""
        return max(1, positions - min(self.max_new_tokens, positions // 2))


def choose(given: Any, generation: GenerationConfig, ends: tuple[int, ...]) -> tuple[GenerationOptions, str | None]:
    """How to choose tokens after the options of `generate.py`, and what was taken from the folder, in one line.

    An option that was not typed is None in `given`. `ends`: the tokens that end an answer.
    Raises UserError, naming the folder's file, for a setting out of range.
    """
    typed = {name: getattr(given, OURS.get(name, name), None) for name in DEFAULTS}
    typed = {name: value for name, value in typed.items() if value is not None}
    settings = _settings(generation)
    taken = _with_a_place(given, typed, settings)
    values = DEFAULTS | {name: value for name, value in taken.items() if name in DEFAULTS} | typed
    options = GenerationOptions(
        **{OURS.get(name, name): value for name, value in values.items()},
        greedy=given.greedy or values["num_beams"] > 1 or taken.get("do_sample") is False,
        stop=tuple(given.stop),
        samples=given.samples,
        best_of=given.best_of or 1,
        seed=given.seed,
        batch_size=given.batch_size,
        end_ids=ends,
    )
    outside = [str(end) for end in generation.end_ids if end not in ends]
    left = [f"eos_token_id {', '.join(outside)} (not in the vocabulary)"] if outside else []
    left += [_with_advice(name) for name in generation.not_applied() if not _typed_instead(given, name)]
    if taken.get("num_beams", 1) > 1 and settings.get("do_sample"):
        left.append("do_sample (beams draw nothing)")
    return options, _note(generation, taken, left)


def _settings(generation: GenerationConfig) -> dict[str, Any]:
    """What the folder says, checked. Raises UserError, naming its file, for a value out of range."""
    found = generation.settings()
    drawing = (*DRAWING, "repetition_penalty", "no_repeat_ngram_size")
    try:
        make_sampler(**{name: found[name] for name in drawing if name in found})
        check_length_penalty(found.get("length_penalty", 1.0))
    except UserError as error:
        raise UserError(f"{generation.source}: {error}") from None
    return found


def _with_a_place(given: Any, typed: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """The folder's settings without those that were typed, and those that leave no room for what was typed."""
    found = {name: value for name, value in settings.items() if name not in typed}
    if found.get("temperature") == 0:
        found["do_sample"] = False
    several, draws = given.best_of is not None, any(name in typed for name in DRAWING)
    if given.greedy or draws or several or given.stop or given.samples > found.get("num_beams", 1):
        found.pop("num_beams", None)
    beams = (typed | found).get("num_beams", 1) > 1
    draws = draws or several or given.samples > 1
    if draws:
        found.pop("do_sample", None)
    if beams or given.greedy or found.get("do_sample") is False:
        gone = DRAWING
    else:
        gone = ("temperature",) if found.get("temperature") == 0 else ()
    gone += ("do_sample",) if beams or given.greedy or found.get("do_sample") else ()
    gone += () if beams else BEAMS
    return {name: value for name, value in found.items() if name not in gone}


def _typed_instead(given: Any, name: str) -> bool:
    return name in INSTEAD and getattr(given, INSTEAD[name]) not in (None, [], 1)


def _with_advice(name: str) -> str:
    return f"{name} (give --{INSTEAD[name].replace('_', '-')})" if name in INSTEAD else name


def _note(generation: GenerationConfig, taken: dict[str, Any], left: list[str]) -> str | None:
    said = [f"{name} {json.dumps(value)}" for name, value in taken.items() if value != DEFAULTS.get(name)]
    parts = [f"sets {', '.join(said)}"] if said else []
    parts += [f"not applied: {', '.join(left)}"] if left else []
    return f"note: {generation.source}: {'; '.join(parts)}" if parts else None
