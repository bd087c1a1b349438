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
Turns = list[list[Encoded]]  # a conversation's turns, each in one part or several


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
    """Encodes each conversation by itself, in parts of at most `max_length` tokens where it is longer.

    Each part begins with a turn of the user's, behind what the system says. A question that does not fit together with
    its answer is left out. Raises UserError where nothing is left.
    """
    result = EncodedSet(how="parted between turns")
    for index, (example, turns) in enumerate(zip(examples, _encoded(examples, tokenizer), strict=True)):
        found = _parts(example, turns, tokenizer, max_length)
        parts = [part for part in found if not isinstance(part, UserError)]
        result.dropped += [f"{example.source}: {part}" for part in found if isinstance(part, UserError)]
        items = [join([part for turn in part for part in turn]) for part in parts]
        scored = [item for item in items if count_scored(item.labels)]
        if parts and not scored:
            result.dropped.append(f"{example.source}: nothing in it is scored")
        elif scored and len(found) > 1:
            result.was_cut(example)
        result.items += scored
        result.kept += [index] * len(scored)
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


def _encoded(examples: Sequence[Example], tokenizer) -> Iterator[Turns | UserError]:
    """Each example's turns; the error where a template cannot render it."""
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


def _parts(example: Example, turns: Turns | UserError, tokenizer, max_length: int) -> list[Turns | UserError]:
    """A conversation in as few parts as fit; an error in the stead of each that does not."""
    if isinstance(turns, UserError) or _length(turns) <= max_length:
        return [turns]
    system = _system(example)
    begins = [system, *_users(example)]
    spans: list[tuple[int, int]] = []
    for begin, end in zip(begins, [*begins[1:], len(turns)], strict=True):
        if spans and _length([*turns[:system], *turns[spans[-1][0] : end]]) <= max_length:
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((begin, end))
    return [_part(example, turns, span, tokenizer, max_length) for span in spans]


def _fit(example: Example, turns: Turns, tokenizer, max_length: int) -> Turns:
    """As many of the last turns as fit. Raises UserError where not even the last question does."""
    if _length(turns) <= max_length:
        return turns
    last = UserError(f"the last turn takes {_length(turns)} tokens, {max_length} fit")
    for start in _users(example):
        last = _part(example, turns, (start, len(turns)), tokenizer, max_length)
        if not isinstance(last, UserError):
            return last
    raise last


def _part(example: Example, turns: Turns, span: tuple[int, int], tokenizer, max_length: int) -> Turns | UserError:
    """What the system says and the turns of a span, [start, end), as they are by themselves; the error if too long."""
    system, (start, end) = _system(example), span
    part: Turns | UserError = [*turns[:system], *turns[start:end]]
    if not _is_ours(tokenizer) and _length(part) <= max_length:  # it may open otherwise
        segments = (*example.segments[:system], *example.segments[start:end])
        (part,) = _encoded([dataclasses.replace(example, segments=segments)], tokenizer)
    if isinstance(part, UserError) or _length(part) <= max_length:
        return part
    which = f"turns {start + 1} to {end} take" if end - start > 1 else f"turn {end} takes"
    return UserError(f"{which} {_length(part)} tokens, {max_length} fit")


def _system(example: Example) -> int:
    """How many turns are a system's: the first, or none."""
    return int(example.segments[0].speaker is None)


def _users(example: Example) -> list[int]:
    """Where a conversation can be parted: before each turn of the user's but the first turn of all."""
    first = _system(example)
    return [index for index, segment in enumerate(example.segments) if segment.speaker == 0 and index > first]


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
