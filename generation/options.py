"""How tokens are chosen: what was typed, else what the model's folder says, else the defaults of a conversation.

A folder's `generation_config.json` names settings that its maker found good: each is the default of its option. What
was typed wins, and puts aside what it leaves no place for: `--greedy` the folder's ways to draw and its beams,
`--temperature` its `"do_sample": false`.
"""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from common.errors import ParameterError, UserError, listed
from common.options import option, option_name, problems
from generation.requests import typed_text
from generation.sampling import Sampler, check_length_penalty, check_num_beams, make_sampler
from generation.stopping import Stopper
from gpt2_jittor.checkpoint.config import GPT2Config
from gpt2_jittor.checkpoint.generation_config import SETTINGS, GenerationConfig
from gpt2_jittor.runtime.demand import check_decoding

DRAWING = ("temperature", "top_k", "top_p", "min_p")
BEAMS = ("num_beams", "length_penalty", "early_stopping")
# a folder's settings that are not applied, and what to type instead
INSTEAD = {"max_length": "max_new_tokens", "stop_strings": "stop", "num_return_sequences": "samples"}


@dataclass(frozen=True)
class GenerationOptions:
    """How tokens are chosen, by transformers' names. `best_of` answers are drawn, the `samples` likeliest of them kept.

    `end_ids`: each of them ends an answer; else the tokenizer's end token does. `early_stopping` is the beams'.
    """

    max_new_tokens: int = option(80, "longest answer", at_least=1)
    greedy: bool = option(False, "always the likeliest token", flag=True)
    temperature: float = option(0.7, "below 1: likelier tokens gain")
    top_k: int = option(0, "draw from the k likeliest tokens; 0: from all")
    top_p: float = option(0.9, "draw from the likeliest tokens of this mass")
    min_p: float = option(0.0, "draw from tokens of this share of the likeliest's probability")
    repetition_penalty: float = option(1.0, "above 1: repeat less")
    no_repeat_ngram_size: int = option(0, "never the same n tokens twice; 0: off")
    num_beams: int = option(1, "beam search of this width; 1: none", at_least=1)
    length_penalty: float = option(1.0, "of the beams: above 0 longer answers gain")
    stop: tuple[str, ...] = option((), "end before any of these", type=typed_text, metavar="TEXT")
    samples: int = option(1, "answers to each prompt", at_least=1)
    best_of: int = option(1, "draw this many answers and keep the likeliest", at_least=1)
    batch_size: int = option(16, "prompts answered together", at_least=1)
    seed: int | None = option(None, "the same seed gives the same answers to the same prompts in the same order")
    early_stopping: bool | str = False
    end_ids: tuple[int, ...] | None = None

    def sampler(self, number: int = 0) -> Sampler:
        """What chooses the next token of the text of this number. Raises UserError for an option out of range."""
        names = ("greedy", *DRAWING, "repetition_penalty", "no_repeat_ngram_size", "seed")
        return make_sampler(**{name: getattr(self, name) for name in names}, number=number)

    @property
    def draws(self) -> int:
        """How many answers to each prompt are made."""
        return max(self.best_of, self.samples)

    @property
    def streams(self) -> bool:
        """Whether an answer can be shown while it is made: nothing is chosen among several."""
        return self.num_beams == self.draws == 1

    def max_prompt_tokens(self, positions: int) -> int:
        """How long a prompt may be, so that the longest answer still fits into `positions`; half of them at least."""
        return max(1, positions - min(self.max_new_tokens, positions // 2))

    def check(self, config: GPT2Config, inputs: int = 1) -> None:
        """Raises UserError for an option out of range, and where a model of this size cannot generate so much at once
        for so many inputs. It is known before the model is read.
        """
        for problem in problems(self):
            raise problem
        self.sampler()
        Stopper(self.stop)
        if self.num_beams > 1:
            check_num_beams(self.num_beams, config.vocab_size)
        each = max(self.num_beams, self.draws)
        rows = each * min(inputs, max(1, self.batch_size // each))
        named = "{num_beams}" if self.num_beams > 1 else "{best_of} or {samples}" if each > 1 else "{batch_size}"
        check_decoding(config, rows, self.max_new_tokens, named + ", or {max_new_tokens}")


DEFAULTS = {field.name: field.default for field in dataclasses.fields(GenerationOptions) if field.name in SETTINGS}


def check_typed(given: dict[str, Any]) -> None:
    """Raises UserError for typed options, by name, that are out of range or contradict each other."""
    for problem in problems(GenerationOptions(**given)):
        raise problem
    draws, beams, samples = _drawing(given), given.get("num_beams", 1), given.get("samples", 1)
    if given.get("greedy") and draws:
        raise ParameterError(f"{{greedy}} draws nothing: leave out {listed(draws)}")
    if beams > 1 and (clash := [*draws, *(name for name in ("best_of", "stop") if given.get(name))]):
        raise ParameterError(
            f"{{num_beams}} draws nothing, and its answers end by themselves: leave out {listed(clash)}"
        )
    check_length_penalty(given.get("length_penalty", 0.0))
    if beams == 1 and "length_penalty" in given:
        raise ParameterError("{length_penalty} weighs beams: add {num_beams}")
    if 1 < beams < samples:
        raise ParameterError("{samples} {0} needs as many beams: raise {num_beams} {1}", samples, beams)
    if (given.get("greedy") or given.get("temperature") == 0) and (samples > 1 or "best_of" in given):
        raise ParameterError("{greedy} has one answer: leave out {samples} and {best_of}, or leave out {greedy}")
    if given.get("best_of", samples) < samples:
        raise ParameterError("{best_of} {0} cannot keep {samples} {1}: raise {best_of}", given["best_of"], samples)


def choose(given: dict[str, Any], generation: GenerationConfig, ends: tuple[int, ...]) -> tuple[GenerationOptions, str]:
    """How to choose tokens after the options that were typed, and what was taken from the folder, in a line or none.

    `given`: what was typed, by name. `ends`: the tokens that end an answer.
    Raises UserError, naming the folder's file, for a setting out of range.
    """
    settings = _settings(generation)
    taken = _with_a_place(given, settings)
    values = DEFAULTS | {name: value for name, value in taken.items() if name in DEFAULTS} | given
    values["greedy"] = given.get("greedy", False) or values["num_beams"] > 1 or taken.get("do_sample") is False
    outside = [str(end) for end in generation.end_ids if end not in ends]
    left = [f"eos_token_id {', '.join(outside)} (not in the vocabulary)"] if outside else []
    left += [_with_advice(name) for name in generation.not_applied() if INSTEAD.get(name) not in given]
    if taken.get("num_beams", 1) > 1 and settings.get("do_sample"):
        left.append("do_sample (beams draw nothing)")
    return GenerationOptions(**values, end_ids=ends), _note(generation, taken, left)


def _drawing(given: dict[str, Any]) -> list[str]:
    """Those of the typed options that say how to draw."""
    return [name for name in DRAWING if name in given]


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


def _with_a_place(given: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """The folder's settings without those that were typed, and those that contradict what was typed."""
    found = {name: value for name, value in settings.items() if name not in given}
    if found.get("temperature") == 0:
        found["do_sample"] = False
    several, draws, greedy = "best_of" in given, bool(_drawing(given)), given.get("greedy", False)
    samples = given.get("samples", 1)
    if greedy or draws or several or given.get("stop") or samples > found.get("num_beams", 1):
        found.pop("num_beams", None)
    beams = (given | found).get("num_beams", 1) > 1
    draws = draws or several or samples > 1
    if draws:
        found.pop("do_sample", None)
    if beams or greedy or found.get("do_sample") is False:
        gone = DRAWING
    else:
        gone = ("temperature",) if found.get("temperature") == 0 else ()
    gone += ("do_sample",) if beams or greedy or found.get("do_sample") else ()
    gone += () if beams else BEAMS
    return {name: value for name, value in found.items() if name not in gone}


def _with_advice(name: str) -> str:
    return f"{name} (give {option_name(INSTEAD[name])})" if name in INSTEAD else name


def _note(generation: GenerationConfig, taken: dict[str, Any], left: list[str]) -> str:
    said = [f"{name} {json.dumps(value)}" for name, value in taken.items() if value != DEFAULTS.get(name)]
    parts = [f"sets {', '.join(said)}"] if said else []
    parts += [f"not applied: {', '.join(left)}"] if left else []
    return f"note: {generation.source}: {'; '.join(parts)}" if parts else ""
