"""Conversations become ids: what opens and closes a turn is the tokenizer's chat template, or ours where it has none.

Ours is a turn's text with the end token behind it and, where the tokenizer has SPEAKERS, its speaker's token before
it. `ours` spells it for transformers, whose `apply_chat_template` then makes the same ids. Any other template is
rendered by transformers. Of an answer, what stands behind its generation prompt is scored, up to its end token; all
that is given between two answers is tokenised as one text, as transformers does. The border before an answer is one
of tokens, always: where a generation prompt ends in a space, that space is a token of its own, in training and in
use alike, while transformers joins it to the answer's first word when it tokenises the whole conversation.
"""

import dataclasses
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import groupby

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

AT_FIRST = 32  # exchanges that a prompt's last turns are tried with

HIDDEN = "\ue000{}\ue000"  # stands for a turn's text while a template is rendered: no letters, so that none is changed

_SHORTEST = Example((Segment("Hi.", scored=False, speaker=0), Segment("Hi.", scored=True, speaker=1)))

Message = dict[str, str]  # "role" and "content", as templates read them
Pieces = list[Encoded]  # a conversation in order: by our template a piece a segment, by others what is given and scored


def ours(tokenizer) -> str:
    """Our template in Jinja, with the speakers' tokens where the tokenizer has them."""
    if speaker_ids(tokenizer):
        return TURNS.replace("SPEAKER", SPEAKER) + OPENING
    return TURNS.replace("SPEAKER", "")


def teach(tokenizer, template: str | None = None) -> None:
    """Gives a tokenizer a chat template: the one given, else its own, else ours.

    The first special token behind an answer's text in another than ours becomes its end token. Raises UserError where
    there is none, since an answer would not end, and where a template cannot be used.
    """
    tokenizer.chat_template = template or tokenizer.chat_template or ours(tokenizer)
    if _is_ours(tokenizer):
        return
    _, behind = _around_answer(_messages(_SHORTEST.segments[:1]), tokenizer, "")
    spelled = special_tokens(tokenizer)
    closing = spelled.search(behind) if spelled else None
    if closing is None:
        raise UserError("the chat template ends no answer with a special token: give another, or add such a token")
    if closing[0] != tokenizer.eos_token:
        tokenizer.eos_token = closing[0]
    _rendered(_SHORTEST, tokenizer)


def conversations(examples: Sequence[Example], tokenizer, max_length: int) -> EncodedSet:
    """Encodes each conversation by itself, in parts of at most `max_length` tokens where it is longer.

    Each part begins with a turn of the user's, behind what the system says. A question that does not fit together with
    its answer is left out. Raises UserError where nothing is left.
    """
    result = EncodedSet(how="parted between turns")
    for index, (example, pieces) in enumerate(zip(examples, _encoded(examples, tokenizer), strict=True)):
        found = _parts(example, pieces, tokenizer, max_length)
        parts = [part for part in found if not isinstance(part, UserError)]
        result.dropped += [f"{example.source}: {part}" for part in found if isinstance(part, UserError)]
        items = [join(part) for part in parts]
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
    return [join(_fit(example, tokenizer, max_length)).input_ids]


def _encoded(examples: Sequence[Example], tokenizer) -> Iterator[Pieces | UserError]:
    """Each example's pieces; the error where a template cannot render it."""
    rendered: list[list[Segment] | UserError] = []
    for example in examples:
        try:
            rendered.append(_rendered(example, tokenizer))
        except UserError as error:
            rendered.append(error)
    sound = [Example(tuple(segments)) for segments in rendered if isinstance(segments, list)]
    pieces = encode_segments(sound, tokenizer)
    for segments in rendered:
        yield segments if isinstance(segments, UserError) else next(pieces)


def _parts(example: Example, pieces: Pieces | UserError, tokenizer, max_length: int) -> list[Pieces | UserError]:
    """A conversation in as few parts as fit; an error in the stead of each that does not."""
    if isinstance(pieces, UserError) or _length(pieces) <= max_length:
        return [pieces]
    begins = [_system(example), *_users(example)]
    parts: list[Pieces | UserError] = []
    start = begins[0]  # of the last part
    for begin, end in zip(begins, [*begins[1:], len(example.segments)], strict=True):
        longer = _part(example, pieces, (start, end), tokenizer, max_length)
        if not isinstance(longer, UserError):
            parts[-1:] = [longer]
        else:
            start = begin
            parts.append(_part(example, pieces, (start, end), tokenizer, max_length))
    return parts


def _fit(example: Example, tokenizer, max_length: int) -> Pieces:
    """As many of the last turns as fit. Raises UserError where not even the last question does.

    A template makes all of a conversation again for each of its answers. So of a long one the last turns are tried
    first, then twice as many, until they are too many: what is forgotten costs nothing.
    """
    starts, end = [_system(example), *_users(example)], len(example.segments)

    def since(index: int) -> Pieces | UserError:
        return _part(example, pieces, (starts[index], end), tokenizer, max_length)

    def fits(index: int) -> bool:
        return not isinstance(since(index), UserError)

    pieces = _whole(example, tokenizer) if _is_ours(tokenizer) or len(starts) <= AT_FIRST else []
    tried = max(0, len(starts) - AT_FIRST)
    while tried and fits(tried):
        tried = max(0, tried - (len(starts) - tried))
    if not tried:
        pieces = pieces or _whole(example, tokenizer)
        if _length(pieces) <= max_length:
            return pieces
        if len(starts) == 1:
            raise UserError(f"the last turn takes {_length(pieces)} tokens, {max_length} fit: shorten it")
    # the later it starts, the shorter it is
    last = len(starts) - 1
    found = since(bisect_left(range(last), True, lo=tried + 1, key=fits))
    if isinstance(found, UserError):
        raise UserError(f"{found}: shorten it")
    return found


def _whole(example: Example, tokenizer) -> Pieces:
    (pieces,) = _encoded([example], tokenizer)
    if isinstance(pieces, UserError):
        raise pieces
    return pieces


def _part(example: Example, pieces: Pieces, span: tuple[int, int], tokenizer, max_length: int) -> Pieces | UserError:
    """What the system says and the turns of a span, [start, end), as they are by themselves; the error if too long."""
    system, (start, end) = _system(example), span
    part: Pieces | UserError
    if _is_ours(tokenizer):
        part = [*pieces[:system], *pieces[start:end]]
    else:  # it may open otherwise, and tokens reach from turn to turn
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


def _rendered(example: Example, tokenizer) -> list[Segment]:
    """What the template makes of a conversation: what is given and what is scored, in order.

    A turn that spells out a special token is HIDDEN from the template and put in afterwards, as text: it is neither
    taken for the template's markup nor becomes such. Raises UserError where the template cannot render it so.
    """
    if _is_ours(tokenizer):
        return list(example.segments)
    messages, hidden = _hide(_messages(example.segments), tokenizer)
    pieces, text = [], ""  # (piece, is it scored), and all of it so far
    for index, segment in enumerate(example.segments):
        if index == 0 or segment.speaker != 1:
            continue
        opened = _opened(messages[:index], tokenizer, text)
        pieces.append((opened[len(text) :], False))
        text = opened
        if segment.end:  # else it is about to begin
            text = _render(messages[: index + 1], tokenizer, opened)
            said, end, rest = text[len(opened) :].partition(tokenizer.eos_token)
            pieces += [(said + end, segment.scored), (rest, False)]
    if example.segments[-1].end:
        before, text = text, _render(messages, tokenizer, text)
        pieces.append((text[len(before) :], False))
    for index in hidden:
        if text.count(HIDDEN.format(index)) != 1:
            raise UserError(f"turn {index + 1} spells out a special token, and the chat template alters it")
    return _joined(pieces, hidden, tokenizer)


def _messages(segments: Sequence[Segment]) -> list[Message]:
    return [{"role": ROLES[segment.speaker], "content": segment.text} for segment in segments]


def _hide(messages: list[Message], tokenizer) -> tuple[list[Message], dict[int, str]]:
    """The messages with HIDDEN for each text that spells out a special token, and these texts by their index."""
    spelled = special_tokens(tokenizer)
    hidden = {i: m["content"] for i, m in enumerate(messages) if spelled and spelled.search(m["content"])}
    return [m | {"content": HIDDEN.format(i)} if i in hidden else m for i, m in enumerate(messages)], hidden


def _joined(pieces: list[tuple[str, bool]], hidden: dict[int, str], tokenizer) -> list[Segment]:
    """The pieces as segments, neighbours of one sort as one; what was `hidden` is text like that around it."""
    if not hidden:
        parts = [(text, scored, True) for text, scored in pieces if text]
    else:
        texts = {HIDDEN.format(index): text for index, text in hidden.items()}
        spelled = special_tokens(tokenizer)
        borders = re.compile(f"({'|'.join(texts)}|{spelled.pattern})")
        split = [(part, scored) for text, scored in pieces for part in borders.split(text) if part]
        parts = [(texts.get(part, part), scored, bool(spelled.fullmatch(part))) for part, scored in split]
    return [
        Segment("".join(part for part, *_ in each), scored, end=False, special=special)
        for (scored, special), each in groupby(parts, key=lambda part: part[1:])
    ]


def _opened(messages: list[Message], tokenizer, before: str) -> str:
    """What an answer continues: up to the generation prompt's end or, without one, to where the answer's text begins.

    There, spaces right before the text are left to the answer: GPT-2's tokens hold the space before a word.
    """
    asked = _render(messages, tokenizer, before)
    opened = _render(messages, tokenizer, asked, add_generation_prompt=True)
    if opened != asked:
        return opened
    ahead, _ = _around_answer(messages, tokenizer, asked)
    return asked + ahead[len(asked) :].rstrip(" ")


def _around_answer(messages: list[Message], tokenizer, before: str) -> tuple[str, str]:
    """The texts before and behind what an assistant says next. Raises UserError where it is not there once, whole."""
    mark = HIDDEN.format(len(messages))
    text = _render([*messages, {"role": "assistant", "content": mark}], tokenizer, before)
    ahead, *behind = text.split(mark)
    if len(behind) != 1:
        raise UserError("the chat template does not write once and whole what the assistant says: give another")
    return ahead, behind[0]


def _render(messages: list[Message], tokenizer, before: str, **options: bool) -> str:
    """The text of messages. Raises UserError where the template refuses them, or changes what was `before`."""
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, **options)
    except Exception as error:  # a template is a program of somebody's
        raise UserError(f"the chat template cannot render it: {error}") from None
    if not text.startswith(before):
        raise UserError(f"the chat template changes what was said before turn {len(messages)}")
    return text


def _length(pieces: Pieces) -> int:
    return sum(len(piece.input_ids) for piece in pieces)
