"""What people read: control characters that came from outside are spelled out, so that none of them does anything.

A prompt, a label, a tensor's or a file's name, an answer: any of them may hold an escape sequence, which would set a
terminal's title, colours or clipboard, move its cursor, or turn the direction of reading. So it is the streams that
spell them out (`make_visible`, in `common.command.run_command`), and nothing that prints has to think of it. Two things
are let through, each by its own name here: the bars, which move the cursor themselves (`bar`), and answers that go into
a file or a pipe, which must be the model's to the byte (`exact`).

A character is spelled as JSON spells it (`\\u202e`), but for those that JSON never leaves as they are (`\\x1b`): what
is printed as JSON stays JSON, and means the same.
"""

import codecs
import re
import reprlib
import sys
import typing
from collections.abc import Sequence

# all of C0 but tab and newline, DEL, C1, the overrides of direction, and halves of characters, which cannot be encoded
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
SPELLED = "spelled"  # names the way of encoding in which what an encoding does not have is spelled out

_SHORT = reprlib.Repr()
_SHORT.maxlevel = 2  # as deep as it goes by default, it fills pages
_SHORT.maxstring = _SHORT.maxother = 100


def visible(text: str) -> str:
    """The text with its control characters spelled out; `visible` of that changes nothing more."""
    return CONTROL.sub(lambda found: _spell(found[0]), text)


def some(names: Sequence[str], most: int = 8) -> str:
    """The first names of several, in a line that stays short."""
    return ", ".join(names[:most]) + ", …" * (len(names) > most)


def short(value: object) -> str:
    """`repr` of what may come from outside and be of any size, so long that one still reads it."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # of an integer that Python takes too long to print
        return "a number of thousands of digits"


def make_visible() -> None:
    """From now on what goes to stdout and stderr is `visible`, and no character makes printing fail."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or isinstance(stream, _Visible):
            continue
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=SPELLED)
        setattr(sys, name, _Visible(stream))


def exact(stream: typing.TextIO) -> typing.TextIO:
    """Where an answer is printed: into a file or a pipe as it is, onto a terminal `visible`."""
    return stream if stream.isatty() else _bare(stream)


def bar(desc: str, kind: type | None = None, **settings: typing.Any):
    """A bar of tqdm's, or of a `kind` made from it, on stderr."""
    if kind is None:
        from tqdm import tqdm as kind  # here: the doctor speaks where no package is installed
    return kind(desc=visible(desc), file=_bare(sys.stderr), dynamic_ncols=True, **settings)


class _Visible:
    """A text stream that writes what is visible; all else is the stream's own."""

    def __init__(self, stream: typing.TextIO):
        self._wrapped = stream  # tqdm's name for it: by that it knows its bar's stream, and clears the bar for others

    def write(self, text: str) -> int:
        """Writes `visible(text)`; the length of `text` as it was given."""
        self._wrapped.write(visible(text))
        return len(text)

    def writelines(self, lines: typing.Iterable[str]) -> None:
        """`write`, for each of them: the stream's own would let everything through."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> typing.Any:
        return getattr(self._wrapped, name)


def _bare(stream: typing.TextIO) -> typing.TextIO:
    return stream._wrapped if isinstance(stream, _Visible) else stream


def _spell(character: str) -> str:
    """In ASCII: `\\x1b`, `\\u009b`, and two halves of four digits each for what is beyond them."""
    number = ord(character)
    if number < 0x20:
        return f"\\x{number:02x}"
    if number > 0xFFFF:
        number -= 0x10000
        return f"\\u{0xD800 + (number >> 10):04x}\\u{0xDC00 + (number & 0x3FF):04x}"
    return f"\\u{number:04x}"


def _spell_unencodable(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_spell, error.object[error.start : error.end])), error.end


codecs.register_error(SPELLED, _spell_unencodable)
