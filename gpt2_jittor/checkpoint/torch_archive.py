"""Reads PyTorch's `.bin` files without PyTorch, and without running anything that is inside them.

Such a file is a pickle, which is a program. The unpickler below knows the few names that a state dict needs,
as inert stand-ins, and refuses every other; each number is checked before it is used as an address.
Both containers are read: the zip of torch >= 1.6 and the plain stream before it (GPT-2's and DialoGPT's
published files). The bytes stay in the mapped file until somebody copies them.
"""

import math
import pickle
import reprlib
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from common.errors import UserError

# numpy has no bfloat16: its bits, under its name
BFLOAT16 = np.dtype([("bfloat16", "<u2")])

STORAGES = {
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": BFLOAT16,
    "DoubleStorage": np.dtype("<f8"),
    "ByteStorage": np.dtype("u1"),
    "CharStorage": np.dtype("i1"),
    "ShortStorage": np.dtype("<i2"),
    "IntStorage": np.dtype("<i4"),
    "LongStorage": np.dtype("<i8"),
    "BoolStorage": np.dtype("?"),
}

LEGACY_MAGIC, LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001
MAX_PICKLE_BYTES = 2 << 20  # a state dict's names and shapes; GPT-2 XL's take 0.1 MB
MAX_DIMENSIONS = 8
ALONE = "save the model's alone with torch, `torch.save(model.state_dict(), …)`, and give that file"

# what pickle protocols 2 to 4 write of a state dict; no opcode that builds an object, none for bytes or sets
OPCODES = {
    *(pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.POP, pickle.POP_MARK),
    *(pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.REDUCE, pickle.BUILD, pickle.BINPERSID),
    *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE),
    *(pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1, pickle.BINFLOAT),
    *(pickle.SHORT_BINUNICODE, pickle.BINUNICODE),
    *(pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
    *(pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS),
    *(pickle.EMPTY_DICT, pickle.SETITEM, pickle.SETITEMS),
    *(pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE, pickle.BINGET, pickle.LONG_BINGET),
}


def open_torch(path: Path) -> dict[str, np.ndarray]:
    """Maps the state dict in `path`: name -> read-only view of the file, in the stored dtype.

    Raises UserError, naming the file, where it is damaged or holds anything but tensors by name.
    """
    try:
        with path.open("rb") as file:
            pickled, places = _open_zip(file, path) if file.read(4) == b"PK\3\4" else _open_stream(file, path)
        file_bytes = np.memmap(path, np.uint8, "r")
        return {name: _view(tensor, places, file_bytes) for name, tensor in _named(pickled, path)}
    except UserError:
        raise
    except Exception as error:  # pickle, zipfile and numpy raise nearly anything over damaged bytes
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{path} is not a readable PyTorch file ({reason}); get it again") from error


class _Storage(NamedTuple):
    dtype: np.dtype
    key: str
    length: int  # elements


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int  # this and the strides in elements
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Place(NamedTuple):
    start: int  # in the file
    size: int  # in bytes


def _rebuild_tensor(storage, offset, shape, strides, requires_grad, hooks, metadata=None) -> _Tensor:
    if not isinstance(storage, _Storage):  # a pickle can dress up other objects; their dtype is not ours
        raise ValueError("a tensor without a storage")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(tensor, requires_grad, hooks) -> _Tensor:
    return tensor


class _Bounded:
    """A file of which a pickle reads so many bytes and no more, whatever lengths it states."""

    def __init__(self, file: BinaryIO):
        self.file, self.left = file, MAX_PICKLE_BYTES

    def read(self, length: int) -> bytes:
        """At most `length` bytes. Raises ValueError once more than MAX_PICKLE_BYTES were read in all."""
        return self._count(self.file.read(min(length, self.left + 1)))

    def readline(self) -> bytes:
        """One line, or the bytes that are left. Raises as `read` does."""
        return self._count(self.file.readline(self.left + 1))

    def _count(self, data: bytes) -> bytes:
        self.left -= len(data)
        if self.left < 0:
            raise ValueError("the pickle is too large")
        return data


class _Dict(dict):
    """An OrderedDict's stand-in: a state dict's own, and the metadata that is set on it and not wanted."""

    def __init__(self, *given):
        if given:
            raise ValueError("a dictionary made out of something")
        super().__init__()

    def __setstate__(self, state):
        pass


class _Unpickler(pickle._Unpickler):
    """Builds dictionaries of `_Tensor` and nothing else.

    It is the library's own in Python: the one in C reserves as much memory as a pickle of ten bytes asks for,
    and its hashing and printing of nested tuples may take for ever. Here keys are text.
    """

    ALLOWED = {
        "collections.OrderedDict": _Dict,
        "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
        "torch._utils._rebuild_parameter": _rebuild_parameter,
    } | {f"torch.{name}": name for name in STORAGES}  # not the dtypes: a pickle may alter what it is given
    dispatch = {code: step for code, step in pickle._Unpickler.dispatch.items() if bytes([code]) in OPCODES}

    def __init__(self, file: BinaryIO, path: Path):
        super().__init__(_Bounded(file), encoding="utf-8")
        self.path = path
        self.storages: dict[str, _Storage] = {}

    def load_setitem(self) -> None:
        """The step for SETITEM. Raises UserError for a number as the key, ValueError for other keys than text."""
        value, key = self.stack.pop(), self.stack.pop()
        self.stack[-1][self._name(key)] = value

    def load_setitems(self) -> None:
        """The step for SETITEMS. Raises as `load_setitem` does."""
        items = self.pop_mark()
        for key, value in zip(items[::2], items[1::2], strict=True):
            self.stack[-1][self._name(key)] = value

    def _name(self, key: Any) -> str:
        if type(key) is int:  # as an optimizer's state has them
            raise UserError(f"{self.path} holds more than a model's tensors, a training's state maybe; {ALONE}")
        return _text(key)

    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name of ALLOWED. Raises UserError for any other: nothing is imported."""
        try:
            return self.ALLOWED[f"{module}.{name}"]
        except KeyError:
            raise UserError(
                f"{self.path} asks for {module}.{name}, which no state dict needs: nothing in it was run; "
                "use the model's safetensors file, or a file that you trust and convert with torch"
            ) from None

    def persistent_load(self, saved_id: tuple) -> _Storage:
        """The storage that a tensor is a view of; its bytes stay in the file. Raises ValueError for what is none."""
        kind, name, key, _device, length, *view = saved_id
        if _text(kind) != "storage" or any(part is not None for part in view):
            raise ValueError(f"unknown storage {reprlib.repr(saved_id)}")
        storage = _Storage(STORAGES[_text(name)], _text(key), _count(length))
        if self.storages.setdefault(storage.key, storage) != storage:
            raise ValueError(f"storage {reprlib.repr(storage.key)} is described twice")
        return storage


def _open_zip(file: BinaryIO, path: Path) -> tuple[Any, dict[str, _Place]]:
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        (pickle_name,) = [name for name in entries if name.endswith("/data.pkl")]
        folder = pickle_name.removesuffix("data.pkl")
        if entries[pickle_name].file_size > MAX_PICKLE_BYTES:
            raise ValueError("data.pkl is too large")
        if f"{folder}byteorder" in entries:
            with archive.open(f"{folder}byteorder") as order:
                if order.read(6) != b"little":
                    raise ValueError("it was saved on a big-endian machine")
        with archive.open(pickle_name) as pickle_file:
            unpickler = _Unpickler(pickle_file, path)
            pickled = unpickler.load()
        places = {key: _zip_place(file, entries[f"{folder}data/{key}"]) for key in unpickler.storages}
    return pickled, places


def _zip_place(file: BinaryIO, entry: zipfile.ZipInfo) -> _Place:
    if entry.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{entry.filename} is compressed")
    file.seek(entry.header_offset)
    # a local header is 30 bytes, then a name and padding whose lengths are its last two numbers
    signature, name_length, extra_length = struct.unpack("<4s22xHH", file.read(30))
    if signature != b"PK\3\4":
        raise ValueError(f"{entry.filename} has no header")
    return _Place(entry.header_offset + 30 + name_length + extra_length, entry.file_size)


def _open_stream(file: BinaryIO, path: Path) -> tuple[Any, dict[str, _Place]]:
    file.seek(0)
    magic, version, _machine = (_Unpickler(file, path).load() for _ in range(3))
    if (magic, version) != (LEGACY_MAGIC, LEGACY_VERSION):
        raise ValueError("unknown format")
    unpickler = _Unpickler(file, path)
    pickled = unpickler.load()
    places = {}
    for key in map(_text, _Unpickler(file, path).load()):  # then, in this order: a count, and as many elements
        size = struct.unpack("<q", file.read(8))[0] * unpickler.storages[key].dtype.itemsize
        places[key] = _Place(file.tell(), _count(size))
        file.seek(size, 1)
    return pickled, places


def _named(pickled: Any, path: Path) -> list[tuple[str, _Tensor]]:
    if not isinstance(pickled, dict):
        raise ValueError(f"it holds a {type(pickled).__name__}, not tensors by name")
    others = [name for name, value in pickled.items() if not isinstance(value, _Tensor)]
    for name in others:  # {"state_dict": …}, {"model": …, "epoch": 3}: which of them is the model, its owner knows
        if isinstance(pickled[name], dict) and any(isinstance(value, _Tensor) for value in pickled[name].values()):
            raise UserError(
                f"{path} is no plain state dict: tensors stand under its entry {reprlib.repr(name)}; {ALONE}"
            )
    if others:
        raise UserError(f"{path} is no plain state dict: its entry {reprlib.repr(others[0])} is no tensor; {ALONE}")
    return list(pickled.items())


def _view(tensor: _Tensor, places: dict[str, _Place], file_bytes: np.ndarray) -> np.ndarray:
    storage, offset, shape, strides = tensor
    place, item = places[storage.key], storage.dtype.itemsize
    if place.size != storage.length * item or place.start + place.size > len(file_bytes):
        raise ValueError(f"storage {reprlib.repr(storage.key)} is cut short")
    _count(offset, *shape, *strides)
    if len(shape) != len(strides) or len(shape) > MAX_DIMENSIONS or math.prod(shape) > storage.length:
        raise ValueError(f"impossible shape {reprlib.repr(shape)}")
    last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    if math.prod(shape) and last >= storage.length:
        raise ValueError(f"shape {reprlib.repr(shape)} reaches beyond its storage")
    if not math.prod(shape):
        return np.empty(shape, storage.dtype)
    elements = file_bytes[place.start : place.start + place.size]
    return np.ndarray(shape, storage.dtype, elements, offset * item, [stride * item for stride in strides])


def _text(value: Any) -> str:
    if type(value) is not str:
        raise ValueError(f"a {type(value).__name__} where a name belongs")
    return value


def _count(*numbers: Any) -> int:
    for number in numbers:
        if type(number) is not int or not 0 <= number < 1 << 48:
            raise ValueError(f"{reprlib.repr(number)} is no sensible size")
    return numbers[0]
