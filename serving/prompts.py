"""What a request gives a model to read: text or ids as they stand, or messages as the model's task has them.

Needs the tokenizer, and so runs in `Service.encoded`'s thread, not in the loop's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from common.errors import UserError
from datasets import tasks
from datasets.encode import tokenise
from datasets.task import KINDS, Task
from serving.body import kind, short, short_text
from serving.errors import ApiError, invalid
from serving.work import Served

UNCUT = np.iinfo(np.int64).max  # as long as it is
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
TOO_LONG = "context_length_exceeded"


@dataclass(frozen=True)
class Prompt:
    """Ids to continue, int64 [time], and the text that was given, None where ids were."""

    ids: np.ndarray
    text: str | None = None


def read_prompts(name: str, given: Any, served: Served, most: int) -> list[Prompt]:
    """What a field gives: a text, ids, or a list of one of them. Raises ApiError for anything else, and for too many.

    An empty text is the beginning of a document, an end token; so is one that a text begins with, as evaluation
    harnesses send it. Other special tokens that a text spells are text, as everywhere where strangers write: ids can
    be any.
    """
    several = given if isinstance(given, list) and not (given and _is_id(given[0])) else [given]
    if not several or len(several) > most:
        raise invalid(name, f"must be 1 to {most} texts, not {len(several)}")
    return [_prompt(name, each, served) for each in several]


def check_prompt_length(name: str, prompt: Prompt, positions: int, answer: int) -> None:
    """Raises ApiError where a prompt and an answer of so many tokens do not fit."""
    if len(prompt.ids) + answer > positions:
        more = f", and {answer} for the answer" if answer else ""
        raise invalid(name, f"takes {len(prompt.ids)} tokens{more}: the model reads {positions}", TOO_LONG)


def read_messages(messages: Any, served: Served, max_tokens: int | None) -> list[np.ndarray]:
    """The ids that answer a chat's messages when they are continued; several windows of a context that is too long.

    `max_tokens`: of the answer, for which room is left. Raises ApiError for messages that the model's task cannot take.
    """
    task = task_of(served)
    asked, standing, history = _fields(_turns(messages), task)
    options = served.options if max_tokens is None else replace(served.options, max_new_tokens=max_tokens)
    room = options.max_prompt_tokens(served.max_length)
    try:
        example = task.asked({**standing, **asked}, history)
        if task.kind.refuses_long:
            (whole,) = task.encode_prompt(example, served.tokenizer, UNCUT)
            if len(whole) > room:
                raise invalid("messages", f"take {len(whole)} tokens, {room} fit: shorten them", TOO_LONG)
        return [ids.astype(np.int64) for ids in task.encode_prompt(example, served.tokenizer, room)]
    except UserError as error:
        raise invalid("messages", str(error)) from None


def task_of(served: Served) -> Task:
    """The task whose prompts a chat has. Text that is continued is talked to by its tokenizer's chat template, or as
    `generate.py --mode chat` does. Raises ApiError for a classifier.
    """
    check_generates(served)
    task = served.task
    if task.kind.name == "text":
        return tasks.find("chat" if served.tokenizer.chat_template else KINDS["chat"].example)
    return task


def check_generates(served: Served) -> None:
    """Raises ApiError for a classifier."""
    if not served.task.kind.generates:
        raise ApiError(
            400, f"the model {served.name} is a classifier, which says nothing: POST to /v1/classify", "model"
        )


def classified(name: str, given: Any, served: Served) -> np.ndarray:
    """The ids of a text, or of an object of the task's fields, that is to be classified: int64 [time].

    Raises ApiError for other things, and for a text that is too long to be read as a whole.
    """
    task = served.task
    fields = {task.needed[0]: given} if isinstance(given, str) else given
    if not isinstance(fields, dict) or {*fields} != {*task.needed}:
        wanted = "a text" if len(task.needed) == 1 else f"an object of {', '.join(task.needed)}"
        raise invalid(name, f"must be {wanted}")
    for field, text in fields.items():
        if not isinstance(text, str) or not text.strip():
            raise invalid(name, f"{field} must be a text that is not empty")
    try:
        (ids,) = task.encode_prompt(task.asked(fields), served.tokenizer, UNCUT)
    except UserError as error:
        raise invalid(name, str(error)) from None
    if len(ids) > served.max_length:
        raise invalid(name, f"takes {len(ids)} tokens, {served.max_length} fit: shorten it", TOO_LONG)
    return ids.astype(np.int64)


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _prompt(name: str, given: Any, served: Served) -> Prompt:
    if isinstance(given, str):
        end, end_id = served.tokenizer.eos_token, served.tokenizer.eos_token_id
        begun = [end_id] if given.startswith(end) or not given else []
        text = given.removeprefix(end)
        ids = next(tokenise([(text, False)], served.tokenizer)) if text else []
        return Prompt(np.array([*begun, *ids], np.int64), given)
    if not isinstance(given, list) or not given or not all(map(_is_id, given)):
        raise invalid(name, f"must be a text, a list of token ids, or a list of one of these, not {kind(given)}")
    if wrong := [token for token in given if not 0 <= token < served.vocab_size]:
        raise invalid(name, f"{short(wrong[0])} is no token's id: they go from 0 to {served.vocab_size - 1}")
    return Prompt(np.array(given, np.int64))


def _turns(messages: Any) -> list[tuple[str, str]]:
    """Each message's role and text."""
    if not isinstance(messages, list) or not messages:
        raise invalid("messages", "must be a list of messages, one at least")
    return [_turn(f"messages[{index}]", message) for index, message in enumerate(messages)]


def _turn(where: str, message: Any) -> tuple[str, str]:
    if not isinstance(message, dict):
        raise invalid(where, f"must be an object with role and content, not {kind(message)}")
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or role not in ROLES:
        raise invalid(f"{where}.role", f"must be one of {', '.join(ROLES)}, not {short(role)}")
    if isinstance(content, list):
        content = "".join(_part(f"{where}.content", part) for part in content)
    if role == "assistant" and content is None:
        content = ""
    # an answer may have ended at once, and is sent back as it came
    if not isinstance(content, str) or not (content.strip() or role == "assistant"):
        raise invalid(f"{where}.content", "must be a text that is not empty")
    for name, value in message.items():
        # a name says nothing to these models; an answer is sent back with all that it came with
        if name not in ("role", "content", "name", "refusal") and value not in (None, [], {}):
            raise invalid(f"{where}.{short_text(name)}", "is not supported: leave it out", "unsupported_parameter")
    return ROLES[role], content


def _part(where: str, part: Any) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return part["text"]
    raise invalid(where, "has a part that is no text: only text can be read")


def _fields(turns: Sequence[tuple[str, str]], task: Task) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """What is asked and what stands beside it, both by the task's fields, and what was said before.

    A system message is the field that stands or may be left out. Raises ApiError where the task has no such order.
    """
    beside = task.kind.standing or next(iter(task.kind.optional), None)
    system, said = (turns[:1], turns[1:]) if turns[0][0] == "system" else ([], turns)
    (last,) = [name for name in task.fields if name != beside]
    standing = {beside: system[0][1]} if system else {}
    if system and beside is None:
        raise invalid("messages", f"this model was not trained with a system message ({task.name}): leave it out")
    if not system and beside in task.needed:
        raise invalid("messages", f"the {beside} is missing: {task.name} needs it as the system message")
    if not task.kind.remembers and [role for role, _ in said] != ["user"]:
        also = f" and, as a system message, its {beside}" if beside else ""
        raise invalid("messages", f"{task.name} answers one message of the user's, its {last}{also}; give no others")
    for index, (role, _) in enumerate(said):
        if role != ("user", "assistant")[index % 2]:
            raise invalid("messages", "the user and the assistant must take turns, behind one system message at most")
    if len(said) % 2 == 0:
        raise invalid("messages", "the last message must be the user's")
    *history, (_, text) = said
    return {last: text}, standing, [text for _, text in history]
