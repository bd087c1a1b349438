"""Conversations as people keep them: `messages` of roles and contents, ShareGPT's `conversations`, or two columns of
texts or of messages."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from common.errors import UserError
from datasets.example import Example, Segment
from datasets.tasks.own.cells import Unusable, cell, is_missing, shown

SPEAKERS = {"system": None, "user": 0, "assistant": 1}  # the roles, and the speakers of their segments
# what others call them
ROLES = {name: name for name in SPEAKERS}
ROLES |= {"developer": "system", "human": "user", "gpt": "assistant", "bot": "assistant"}
TOOLS = {"tool", "function", "function_call", "tool_call", "observation", "ipython"}  # who speaks for a program
CALLS = ("tool_calls", "function_call")  # of a message, in OpenAI's forms
SPELLED = re.compile(r"""\s*\[\s*\{\s*["'](?:role|content|from|value)["']\s*:""")  # messages in a cell of a table
KEYS = (("role", "content"), ("from", "value"))  # of a message, and of a ShareGPT turn
UNANSWERED = "last turns that nobody answers, left out"


class Turn(NamedTuple):
    """What is said, and by which role; `given`: it is not scored, whosever it is."""

    role: str
    text: str
    given: bool = False


def conversation(turns: Sequence[Turn], source: str = "") -> Example:
    """The example for a conversation: for training, and for a chat's history alike.

    Every turn of the assistant's that is not given is scored, its end included, unless nothing stands before it. A turn
    loses the space around it, nothing else.
    """
    return Example(
        tuple(
            Segment(
                turn.text.strip(),
                scored=turn.role == "assistant" and index > 0 and not turn.given,
                speaker=SPEAKERS[turn.role],
            )
            for index, turn in enumerate(turns)
        ),
        source,
    )


def prompt(history: Sequence[str], system: str = "") -> Example:
    """What the assistant's next turn continues; the user spoke first, and last, behind what the `system` says."""
    first = [Turn("system", system)] if system.strip() else []
    turns = [Turn(("user", "assistant")[index % 2], text) for index, text in enumerate(history)]
    return conversation([*first, *turns, Turn("assistant", "")]).given


def of_messages(column: str, record: dict, where: str, notes: Counter) -> Example:
    """The example of a record whose `column` is a list of messages.

    Raises UserError for what is no such list, and Unusable where nothing can be learnt from it.
    """
    return checked(list(_turns(record[column], column, where)), where, notes)


def are_messages(value: object) -> bool:
    """Whether a field is a list of messages, or spells one, perhaps as Python does, which is no JSON."""
    if isinstance(value, str):
        return SPELLED.match(value) is not None
    return isinstance(value, list) and any(isinstance(each, dict) for each in value)


def of_pair(record: dict, where: str, notes: Counter) -> Example:
    """The example of a prompt and its completion, each a text or messages (TRL's form): a conversation of which the
    completion alone is scored. Raises as `of_messages` does."""
    prompt, completion = (
        list(_turns(record[name], name, where))
        if are_messages(record[name])
        else [Turn(role, cell(record, name, where))]
        for name, role in (("prompt", "user"), ("completion", "assistant"))
    )
    return checked([*(turn._replace(given=True) for turn in prompt), *completion], where, notes)


def checked(turns: list[Turn], where: str, notes: Counter) -> Example:
    """The conversation without the last turns that nobody answers, and without a system's turn that is empty.

    Raises Unusable for an order without sense.
    """
    if turns and turns[0].role == "system" and not turns[0].text.strip():
        turns = turns[1:]
    for index, (role, text, _) in enumerate(turns):
        if not text.strip():
            raise Unusable(f"turn {index + 1}, the {role}'s, is empty")
        if role == "system" and index:
            raise Unusable(f"turn {index + 1} is a system's, which only the first can be")
        if index and role == turns[index - 1].role:
            raise Unusable(f"turns {index} and {index + 1} are both the {role}'s")
    answered = max((index for index, turn in enumerate(turns) if turn.role == "assistant"), default=0)
    example = conversation(turns[: answered + 1], where)
    if not any(segment.scored for segment in example.segments):
        weighed = " that is to be learnt" if any(turn.given for turn in turns) else ""
        raise Unusable(f"the assistant answers nothing in it{weighed}")
    notes[UNANSWERED] += answered + 1 < len(turns)
    return example


def _turns(value: object, column: str, where: str) -> Iterator[Turn]:
    """Each message's turn. One of OpenAI's weight 0 is given. Raises UserError for what is no list of messages, and for
    an unknown role."""
    if isinstance(value, str):  # of a .csv, where all is text
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise UserError(f"{where}: the field {column!r} must be a list of messages, as JSON: mend it") from None
    if is_missing(value):
        raise Unusable(f"the field {column!r} is empty")
    if not isinstance(value, list):
        raise UserError(f"{where}: the field {column!r} must be a list of messages, not {shown(value)}")
    for number, message in enumerate(value, 1):
        place = f"{where}: message {number}"
        keys = _keys(message)
        if keys is None:
            raise UserError(f"{place} needs 'role' and 'content', or 'from' and 'value', not {shown(message)}")
        name = message[keys[0]]
        called = name.strip().lower() if isinstance(name, str) else ""
        if called in TOOLS or any(message.get(call) for call in CALLS):
            raise Unusable(f"message {number} is of a tool, or calls one, which is no text that could be learnt")
        role = ROLES.get(called)
        if role is None:
            raise UserError(f"{place} has the unknown role {shown(name)}: the roles are {', '.join(ROLES)}")
        weight = message.get("weight")
        if role == "assistant" and weight not in (None, 0, 1):
            raise UserError(f"{place} has the weight {shown(weight)}: it must be 0 or 1")
        if keys[1] not in message:
            raise UserError(f"{place} has no {keys[1]!r}")
        said = cell({keys[1]: _joined(message[keys[1]], place)}, keys[1], place)
        yield Turn(role, said, given=weight == 0)


def _keys(message: object) -> tuple[str, str] | None:
    """What a message calls its role and its text; of a table's rows, which have all keys, those that are not null."""
    if not isinstance(message, dict):
        return None
    there = [keys for keys in KEYS if keys[0] in message]
    return next((keys for keys in there if message[keys[0]] is not None), there[0] if there else None)


def _joined(content: object, where: str) -> object:
    """A content in parts, [{"type": "text", "text": …}, …], as one text. Raises UserError for parts of other types."""
    if not isinstance(content, list):
        return content
    for part in content:
        if not isinstance(part, dict) or part.get("type", "text") != "text" or not isinstance(part.get("text"), str):
            raise UserError(f"{where} holds a part that is no text, {shown(part)}: only text can be learnt")
    return "".join(part["text"] for part in content)
