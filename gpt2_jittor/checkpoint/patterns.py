"""What a tokenizer.json brings along beside GPT-2's own parts: bounded in time, and one line where it fails.

One from elsewhere may hold a pattern that takes for ever on some text. The library gives up within a match, by a panic
that prints a dump, but not within a text, where each place begins another match. Other parts panic on odd settings.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.limit import in_time

SECONDS = 60.0  # for any text, and
CHARACTERS_A_SECOND = 20_000  # a fiftieth of what a usual pattern does on one slow core


def load_guarded(load: Callable[[], Any], content: dict, file: Path, known: bool) -> Any:
    """The tokenizer that `load` makes of `file`, which holds `content`.

    Loading it raises UserError where a part of it fails, using it too, unless its parts are `known`, GPT-2's own.
    """
    has_pattern = _has_pattern([content.get(part) for part in ("normalizer", "pre_tokenizer", "decoder")])
    failing = "a pattern in it takes too long on this text" if has_pattern else "a part of it fails"
    fault = UserError(f"{file}: {failing}; use another tokenizer")
    tokenizer = _bounded(load, fault)()
    if known:
        return tokenizer
    # Rust's panic is no Exception, and its thread cannot be stopped: so the object's own two ways in are wrapped
    tokenizer._encode_plus, tokenizer._decode = (
        _bounded(way, fault) for way in (tokenizer._encode_plus, tokenizer._decode)
    )
    return tokenizer


def _bounded(work: Callable, fault: UserError) -> Callable:
    """`work` that raises `fault` where it takes too long or panics."""

    def run(*given: Any, **options: Any) -> Any:
        """What `work` returns. Raises UserError after a minute, and a second more for every 20,000 characters."""
        seconds = SECONDS + _characters([*given, *options.values()]) / CHARACTERS_A_SECOND
        with _without_dump():
            return in_time(lambda: work(*given, **options), seconds, fault)

    return run


def _has_pattern(part: object) -> bool:
    if isinstance(part, dict):
        return "Regex" in part or any(map(_has_pattern, part.values()))
    return isinstance(part, list) and any(map(_has_pattern, part))


def _characters(given: object) -> int:
    if isinstance(given, str):
        return len(given)
    return sum(map(_characters, given)) if isinstance(given, list | tuple) else 1


@contextlib.contextmanager
def _without_dump() -> Iterator[None]:
    """What a panic writes to the process's stderr, past Python, is not seen."""
    _stderr.turn_away()
    try:
        yield
    finally:
        _stderr.turn_back()


class _Stderr:
    """The process's, of which there is one for all threads: turned away by the first that asks, back by the last."""

    def __init__(self):
        self._lock, self._asked, self._before = threading.Lock(), 0, None

    def turn_away(self) -> None:
        """To nowhere; nothing changes where there is no stderr."""
        with self._lock:
            self._asked += 1
            if self._asked > 1:
                return
            with contextlib.suppress(OSError):
                self._before = os.dup(2)
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, 2)
                os.close(nowhere)

    def turn_back(self) -> None:
        """To where it went before."""
        with self._lock:
            self._asked -= 1
            if self._asked == 0 and self._before is not None:
                os.dup2(self._before, 2)
                os.close(self._before)
                self._before = None


_stderr = _Stderr()
