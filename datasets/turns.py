"""Conversations become ids: what opens and closes a turn is the tokenizer's chat template, or ours where it has none.

Ours is a turn's text with the end token behind it and, where the tokenizer has SPEAKERS, its speaker's token before
it. `ours` spells it for transformers, whose `apply_chat_template` then makes the same ids. Any other template is
rendered by transformers, turn by turn: what it writes of an answer, behind what opens one, is scored.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from common.errors import UserError
from datasets.encode import (
    Encoded,
    EncodedSet,
    count_scored,
    encode_segments,
    join,
    not_empty,
    speaker_ids,
    special_tokens,
)
from datasets.example import Example, Segment

ROLES = {None: "system", 0: "user", 1: "assistant"}  # of a segment's speaker
TURNS = "{% for message in messages %}SPEAKER{{ message['content'] | trim }}{{ eos_token }}{% endfor %}"
SPEAKER = "{{ {'user': '<USER>', 'assistant': '<BOT>'}.get(message['role'], '') }}"
OPENING = "{% if add_generation_prompt %}<BOT>{% endif %}"

_SHORTEST = Example((Segment("Hi.", scored=False, speaker=0), Segment("Hi.", scored=True, speaker=1)))

Turn = tuple[Segment, ...]  # what a template makes of one segment


def ours(tokenizer) -> str:
    """Our template in Jinja, with the speakers' tokens where the tokenizer has them."""
    if speaker_ids(tokenizer):
        return TURNS.replace("SPEAKER", SPEAKER) + OPENING
    return TURNS.replace("SPEAKER", "")


def teach(tokenizer, template: str | None = None) -> None:
    """Gives a tokenizer a chat template: the one given, else its own, else ours.

    What closes an answer in another than ours becomes its end token. Raises UserError where a template closes it with
    no special token: an answer would not end.
    """
    tokenizer.chat_template = template or tokenizer.chat_template or ours(tokenizer)
    *_, answer = _rendered(_SHORTEST, tokenizer)
    if _is_ours(tokenizer):
        return
    closing = special_tokens(tokenizer).search(answer[-1].text)
    if closing is None:
        raise UserError("the chat template ends no answer with a special token: give another, or add such a token")
    if closing[0] != tokenizer.eos_token:
        tokenizer.eos_token = closing[0]


def conversations(examples: Sequence[Example], tokenizer, max_length: int) -> EncodedSet:
    """Encodes each conversation by itself, at most `max_length` tokens long.

    Where it is longer, its oldest turns are forgotten, up to one of the user's; what the system says stays. One whose
    last question and answer do not fit is dropped. Raises UserError where nothing is left.
    """
    result = EncodedSet(how="their oldest turns are left out")
    for index, (example, turns) in enumerate(zip(examples, _encoded(examples, tokenizer), strict=True)):
        try:
            if isinstance(turns, UserError):
                raise turns
            fit = _fit(example, turns, tokenizer, max_length)
        except UserError as error:
            result.dropped.append(f"{example.source}: {error}")
            continue
        item = join([part for turn in fit for part in turn])
        if not count_scored(item.labels):
            result.dropped.append(f"{example.source}: nothing in it is scored")
            continue
        result.items.append(item)
        result.kept.append(index)
        if len(fit) < len(turns):
            result.was_cut(example)
    return not_empty(result, len(examples))


def conversation_prompt(example: Example, tokenizer, max_length: int) -> list[np.ndarray]:
    """The ids that generation continues, one array: int32 [time], with time <= max_length.

    Oldest turns are forgotten as in training. Raises UserError where the last one alone is too long.
    """
    (turns,) = _encoded([example], tokenizer)
    if isinstance(turns, UserError):
        raise turns
    try:
        fit = _fit(example, turns, tokenizer, max_length)
    except UserError as error:
        raise UserError(f"{error}: shorten it") from None
    return [join([part for turn in fit for part in turn]).input_ids]


def _encoded(examples: Sequence[Example], tokenizer) -> Iterator[list[list[Encoded]] | UserError]:
    """Each example's turns, each in one part or several; the error where a template cannot render it."""
    rendered: list[list[Turn] | UserError] = []
    for example in examples:
        try:
            rendered.append(_rendered(example, tokenizer))
        except UserError as error:
            rendered.append(error)
    sound = [Example(tuple(s for turn in turns for s in turn)) for turns in rendered if isinstance(turns, list)]
    parts = encode_segments(sound, tokenizer)
    for turns in rendered:
        if isinstance(turns, UserError):
            yield turns
        else:
            each = iter(next(parts))
            yield [[next(each) for _ in turn] for turn in turns]


def _fit(example: Example, turns: list[list[Encoded]], tokenizer, max_length: int) -> list[list[Encoded]]:
    """The turns that fit into `max_length` tokens. Raises UserError where not even the last ones do."""
    if _length(turns) <= max_length:
        return turns
    system = 1 if example.segments[0].speaker is None else 0
    users = [index for index, segment in enumerate(example.segments) if segment.speaker == 0 and index > system]
    for start in users:
        kept = [*turns[:system], *turns[start:]]
        if _length(kept) > max_length:
            continue
        shorter = dataclasses.replace(example, segments=(*example.segments[:system], *example.segments[start:]))
        (kept,) = [kept] if _is_ours(tokenizer) else _encoded([shorter], tokenizer)  # it may open otherwise
        if isinstance(kept, UserError):
            raise kept
        if _length(kept) <= max_length:
            return kept
    least = [*turns[:system], *turns[users[-1] if users else system :]]
    raise UserError(f"what was said last takes {_length(least)} tokens, {max_length} fit")


def _is_ours(tokenizer) -> bool:
    return tokenizer.chat_template in (None, "", ours(tokenizer))


def _rendered(example: Example, tokenizer) -> list[Turn]:
    """What the template makes of each turn. Raises UserError where it cannot be rendered turn by turn."""
    if _is_ours(tokenizer):
        return [(segment,) for segment in example.segments]
    turns, messages, before = [], [], ""
    for segment in example.segments:
        opened = before
        if segment.speaker == 1 and messages:
            opened = _render(messages, tokenizer, before, add_generation_prompt=True)
        opening = Segment(opened[len(before) :], scored=False, end=False, special=True)
        if segment.speaker == 1 and not segment.end:  # an answer that is about to begin
            turns.append((opening,))
            continue
        messages.append({"role": ROLES[segment.speaker], "content": segment.text})
        before = _render(messages, tokenizer, opened)
        said = _apart(before[len(opened) :], segment, tokenizer)
        turns.append((opening, *said) if opening.text else said)
    return turns


def _render(messages: list[dict[str, str]], tokenizer, before: str, **options: bool) -> str:
    """The text of messages. Raises UserError where the template refuses them, or changes what was `before`."""
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, **options)
    except Exception as error:  # a template is a program of somebody's
        raise UserError(f"the chat template cannot render it: {error}") from None
    if not text.startswith(before):
        raise UserError(f"the chat template changes what was said before turn {len(messages)}")
    return text


def _apart(text: str, segment: Segment, tokenizer) -> Turn:
    """A rendered turn; a special token that was spelled out in what was said is text, as everywhere."""
    spelled, start = special_tokens(tokenizer), text.find(segment.text)
    whole = Segment(text, segment.scored, end=False, special=True)
    if start < 0 or not spelled or not spelled.search(segment.text):
        return (whole,)
    end = start + len(segment.text)
    pieces = [(text[:start], True), (text[start:end], False), (text[end:], True)]
    return tuple(dataclasses.replace(whole, text=piece, special=own) for piece, own in pieces if piece)


def _length(turns: Sequence[Sequence[Encoded]]) -> int:
    return sum(len(part.input_ids) for turn in turns for part in turn)
