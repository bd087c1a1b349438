"""Files and folders that are whole or absent: written under a temporary name beside the target, flushed, renamed.

What a run keeps in its folder takes the place of whatever had its name, a link too (`replacing`). What the user names
may be a link, which stays, or a device or a pipe, which is written into (`writing_to`).
"""

import contextlib
import errno
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from common.errors import ParameterError, UserError
from common.terminal import SPELLED

DEPTH = 64  # of nested JSON; deeper, and printing it in an error would fail
JSON_BYTES = 1 << 26  # GPT-2's tokenizer.json has 1.4 million, large ones 20; a sparse file can claim any size
YAML_BYTES = 1 << 18  # a recipe has one thousand; the reader takes seconds for a million
BLOCK = 1 << 20  # bytes that are read at a time
PICTURES = (".png", ".pdf", ".svg")
TEMPORARY = ".part-"  # how the names of unfinished files and folders begin
LINKS = 40  # that are followed one after another, as Linux does


def expanded(path: str | Path) -> Path:
    """The path with `~` or `~name` at its beginning replaced. Raises UserError where nobody is called so."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path}: there is no home folder of that name; give the folder's whole path") from None


def check_writable(folder: Path, otherwise: str) -> None:
    """Raises UserError where no file can be made in a folder, which need not be there; `otherwise`: what to do then."""
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}; {otherwise}") from None


def check_picture(path: Path, what: str = "the picture") -> None:
    """Raises UserError for a picture's file of a kind that is not drawn; `what` names it, as a template's part."""
    if path.suffix.lower() not in PICTURES:
        kinds = f"{', '.join(PICTURES[:-1])} or {PICTURES[-1]}"
        raise ParameterError(f"{what} must be a {{kinds}} file, unlike {{path}}; name another", kinds=kinds, path=path)


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path in `path`'s folder; on success it becomes `path`, on failure it is removed.

    Raises UserError where the folder cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=TEMPORARY, suffix=f"-{path.name}")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another folder") from error
    os.close(handle)
    temporary = Path(name)
    try:
        with _telling(path):
            yield temporary
            flush(temporary)
            temporary.chmod(0o666 & ~_umask())  # mkstemp's 0600 is for secrets, not for results
            temporary.replace(path)
            flush(path.parent)  # else the rename itself may be lost with the power
    finally:
        with contextlib.suppress(OSError):  # a folder that has become read-only: the error is why the write failed
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def writing_to(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path for what goes to `path`, which the user has named; on failure nothing is written there.

    A regular file is replaced, that which a link leads to in the link's stead. A device, a pipe or one of this
    process's own streams (/dev/null, /dev/stdout, /dev/fd/N, a FIFO) is written into at the end. Raises UserError where
    it cannot be written.
    """
    path = Path(path)
    target = _behind_links(path)
    with _telling(path):
        is_file = isinstance(target, Path) and (not target.exists() or stat.S_ISREG(target.stat().st_mode))
    if is_file:
        with replacing(target) as temporary:
            yield temporary
        return
    with _telling(path), tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder, path.name)
        temporary.touch()
        yield temporary
        print(end="", flush=True)  # it may be the same stream, and what was printed came first
        opened = target.open("wb") if isinstance(target, Path) else os.fdopen(os.dup(target), "wb")
        with opened as into, temporary.open("rb") as written:
            shutil.copyfileobj(written, into)


def is_own_stream(path: Path) -> bool:
    """Whether a path leads to one of this process's own streams, as /dev/stdout does."""
    return isinstance(_behind_links(path), int)


@contextlib.contextmanager
def replacing_folder(path: str | Path) -> Iterator[Path]:
    """Yields a temporary folder beside `path`, for `replacing` to write into; on success it becomes `path`.

    Raises UserError where it cannot be written.
    """
    path = Path(path)
    with _telling(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=TEMPORARY, suffix=f"-{path.name}"))
        try:
            yield temporary
            temporary.chmod(0o777 & ~_umask())
            flush(temporary)
            if path.exists():
                remove_folder(path)
            temporary.rename(path)
            flush(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Removes a folder that is never seen with only a part of its files. Raises UserError where it cannot be."""
    doomed = path.with_name(f"{TEMPORARY}old-{path.name}")
    try:
        shutil.rmtree(doomed, ignore_errors=True)
        path.rename(doomed)
    except OSError as error:
        raise UserError(f"cannot remove {path}: {error.strerror}; see to the folder's permissions") from error
    shutil.rmtree(doomed, ignore_errors=True)


def remove_unfinished(folder: Path) -> None:
    """Removes what a process that was killed left half-written. Nobody else may be writing in the folder."""
    for path in folder.glob(f"{TEMPORARY}*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Waits until a file, or a folder's list of names, is on the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def write_text(path: str | Path, text: str) -> None:
    """Writes UTF-8 text; halves of characters, as names of files may hold, are spelled out as in JSON and YAML."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors=SPELLED)


def write_json(path: str | Path, value: object) -> None:
    """Writes JSON as `json_text` has it."""
    write_text(path, json_text(value))


def json_text(value: object) -> str:
    """JSON, indented, with a newline at its end."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def open_regular(path: str | Path) -> BinaryIO:
    """Opens a file to be read. Raises OSError for what is none: a pipe or a device would be waited for, for ever."""
    opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    kind = os.fstat(opened).st_mode
    if stat.S_ISREG(kind):
        return os.fdopen(opened, "rb")
    os.close(opened)
    number = errno.EISDIR if stat.S_ISDIR(kind) else errno.EINVAL
    raise OSError(
        number, os.strerror(number) if stat.S_ISDIR(kind) else "it is a pipe or a device, not a file", str(path)
    )


def hexdigest(path: Path, digest) -> str:
    """The hash of a file, by a hash of `hashlib` that has been begun. Raises OSError."""
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def read_json(path: str | Path) -> dict:
    """Reads a JSON object. Raises UserError where the file is missing, huge, no JSON object, or has a key twice."""
    try:
        with open_regular(path) as file:
            if (size := os.fstat(file.fileno()).st_size) > JSON_BYTES:
                raise UserError(f"{path} has {size:,} bytes, more than the {JSON_BYTES:,} that are read; mend it")
            value = json.loads(file.read().decode("utf-8-sig"), object_pairs_hook=_once)
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a JSON {type(value).__name__}, not an object")
    if _is_deep(value):
        raise UserError(f"{path} cannot be read as JSON: it is nested more than {DEPTH} deep")
    return value


def read_yaml(path: Path) -> dict:
    """Reads `name: value` lines of YAML, which runs nothing. Raises UserError where it is anything else.

    A key that is there twice is an error, too.
    """
    import yaml  # here: the doctor reads files where no package is installed

    from common import strict_yaml

    try:
        with open_regular(path) as file:
            data = file.read(YAML_BYTES + 1)
        if len(data) > YAML_BYTES:
            raise ValueError(f"it has more than {YAML_BYTES:,} bytes")
        value = strict_yaml.load(data.decode("utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"there is no recipe {path}") from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read as YAML: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold `name: value` lines")
    return value


@contextlib.contextmanager
def _telling(path: Path) -> Iterator[None]:
    """Turns what the system says about a failed write into the user's error."""
    try:
        yield
    except BrokenPipeError:  # whoever read it has gone: no fault of the path's
        raise
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot write {path}: {reason}; free some space or choose another folder") from error


def _behind_links(path: Path) -> Path | int:
    """What links lead to, be it there or not; the number of the stream where that is one of this process's own."""
    own = f"/proc/{os.getpid()}/fd"  # where /dev/stdout and /dev/fd/1 lead
    end = path
    for _ in range(LINKS):
        if end.name.isdecimal() and os.path.realpath(end.parent) == own and end.exists():
            return int(end.name)
        if not end.is_symlink():
            return end
        end = end.parent / end.readlink()
    raise UserError(f"cannot write {path}: it is a link that leads to itself; name another")


def _once(pairs: list[tuple[str, object]]) -> dict:
    """A JSON object, of whose keys none may be there twice: which value was meant, nobody knows."""
    whole = dict(pairs)
    if len(whole) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return whole


def _is_deep(value: object) -> bool:
    level = [value]
    for _ in range(DEPTH):
        level = [
            part
            for whole in level
            if isinstance(whole, dict | list)
            for part in (whole.values() if isinstance(whole, dict) else whole)
        ]
    return bool(level)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
