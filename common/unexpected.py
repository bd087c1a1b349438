"""The last line of defence: an error that nobody expected is one line, and a file with what is needed to mend it."""

import os
import platform
import shlex
import sys
import tempfile
import traceback
from pathlib import Path

from common.terminal import SPELLED, visible

STATUS = os.EX_SOFTWARE
ROOT = Path(__file__).resolve().parent.parent
SHOWN = 300  # characters of what an error says about itself: a compiler's takes pages


def report(error: BaseException) -> str:
    """One line about an error of ours: what it is, where, what to do, and which file now holds its traceback."""
    said = visible(" ".join(str(error).split()))
    said = said if len(said) <= SHOWN else said[:SHOWN] + " …"
    if isinstance(error, MemoryError):
        what = f"out of memory{f' ({said})' if said else ''}"
        mend = "lower --batch-size, --max-length or --num-beams, or take a smaller model"
        return f"{what}: {mend}; {_log(error)}"
    what = f"{type(error).__name__}{f': {said}' if said else ''}"
    return f"this should not happen: {what} ({_place(error)}); {_log(error)}; please report it to this project"


def _place(error: BaseException) -> str:
    """The last line of this project that ran: `training/trainer.py:123`."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(ROOT) and ".venv" not in frame.filename]
    if not frames:  # it was made, and never raised
        return "nowhere"
    last = (own or frames)[-1]
    path = Path(last.filename)
    return f"{path.relative_to(ROOT) if own else path}:{last.lineno}"


def _log(error: BaseException) -> str:
    """Writes the file, and says in words where it lies."""
    lines = [shlex.join(["python", *sys.argv]), f"Python {platform.python_version()} on {platform.platform()}", ""]
    lines += traceback.format_exception(error)
    try:
        handle, path = tempfile.mkstemp(prefix="gpt2-jittor-", suffix=".log")
        with os.fdopen(handle, "w", encoding="utf-8", errors=SPELLED) as file:
            file.write("\n".join(lines))
    except OSError as refused:
        return f"its traceback could not be written anywhere ({refused.strerror})"
    return f"its traceback is in {path}"
