"""How tokens are chosen: what was typed, else what the model's folder says, else the defaults of a conversation.

A folder's `generation_config.json` names settings that its maker found good: each is the default of its option. What
was typed wins, and puts aside what it leaves no place for: `--greedy` the folder's ways to draw and its beams,
`--temperature` its `"do_sample": false`.
"""

import json
from typing import Any

from gpt2_jittor.generation_config import GenerationConfig
from inference.answers import Decoding

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


def choose(given: Any, generation: GenerationConfig, ends: tuple[int, ...]) -> tuple[Decoding, str | None]:
    """How to choose tokens after the options of `generate.py`, and what was taken from the folder, in one line.

    An option that was not typed is None in `given`. `ends`: the tokens that end an answer.
    Raises UserError, naming the folder's file, for a setting out of range.
    """
    typed = {name: getattr(given, OURS.get(name, name), None) for name in DEFAULTS}
    typed = {name: value for name, value in typed.items() if value is not None}
    settings = generation.settings()
    taken = _with_a_place(given, typed, settings)
    values = DEFAULTS | {name: value for name, value in taken.items() if name in DEFAULTS} | typed
    decoding = Decoding(
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
    return decoding, _told(generation, taken, left)


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


def _told(generation: GenerationConfig, taken: dict[str, Any], left: list[str]) -> str | None:
    said = [f"{name} {json.dumps(value)}" for name, value in taken.items() if value != DEFAULTS.get(name)]
    parts = [f"sets {', '.join(said)}"] if said else []
    parts += [f"not applied: {', '.join(left)}"] if left else []
    return f"note: {generation.source}: {'; '.join(parts)}" if parts else None
