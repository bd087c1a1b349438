"""What a command says must not decide whether its work is saved: a reader may go, stall, or never have been there."""

import contextlib
import os
import select
import sys
import typing

STDERR = 2
PATIENCE = 2.0  # seconds to wait for a reader that is only slow
PIECE = 512  # bytes: the least that a pipe that can be written to takes at once, POSIX says


def keep_standard_files() -> None:
    """Makes stdin, stdout and stderr lead nowhere where the process was started without them (`>&-`).

    Else Python has None in their place, and the next file that is opened, a checkpoint perhaps, takes their number.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
        if getattr(sys, name) is None:
            stream = open(number, "w" if number else "r", encoding="utf-8", closefd=False)  # noqa: PTH123, SIM115
            setattr(sys, name, stream)


def ignore_closed_output(*names: str) -> None:
    """From now on nothing that is printed on these, stdout or stderr, can fail or wait for ever: what nobody reads is
    lost. All three standard streams are there then (`keep_standard_files`).
    """
    keep_standard_files()
    for name in names:
        if not isinstance(getattr(sys, name), LossyStream):
            setattr(sys, name, LossyStream(getattr(sys, name)))


def write_now(text: str) -> None:
    """Writes to stderr if that can be done at once, as in a signal handler, where `print` could enter another print."""
    with contextlib.suppress(OSError):
        file = _unblocked(STDERR)
        try:
            if _is_ready(file, seconds=0):
                os.write(file, text.encode("utf-8", "backslashreplace"))
        finally:
            if file != STDERR:
                os.close(file)


class LossyStream:
    """A text stream over another's file, without a buffer. What cannot be written is dropped.

    A reader that does not read is waited for PATIENCE seconds, once; it is written to again as soon as it reads on.
    """

    def __init__(self, stream: typing.TextIO):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
        self._stream = stream
        self._stalled = False
        self._file = _unblocked(stream.fileno())

    def write(self, text: str) -> int:
        """Writes what the reader takes and drops the rest; the length of all of `text`, as if it were written."""
        data = text.encode(self._stream.encoding or "utf-8", self._stream.errors or "strict")
        with contextlib.suppress(OSError):
            while data and self._reads():
                data = data[os.write(self._file, data[:PIECE]) :]
        return len(text)

    def flush(self) -> None:
        """Nothing waits here."""

    def __getattr__(self, name: str) -> typing.Any:
        return getattr(self._stream, name)

    def _reads(self) -> bool:
        self._stalled = not _is_ready(self._file, 0 if self._stalled else PATIENCE)
        return not self._stalled


def _unblocked(file: int) -> int:
    """The file, or for a terminal one of its own in which no write waits: a terminal that can take a byte may not take
    a line. Closed by who asks for it, where it is another.
    """
    with contextlib.suppress(OSError):
        if os.isatty(file):
            return os.open(f"/proc/self/fd/{file}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    return file


def _is_ready(file: int, seconds: float) -> bool:
    """Whether a write would return, be it with an error."""
    poll = select.poll()
    poll.register(file, select.POLLOUT)
    return bool(poll.poll(seconds * 1000))
