"""Weights between a Hugging Face folder and numpy.

A checkpoint's key is our model's attribute path, and projections keep the `[in, out]` orientation, so reading
is a matter of files and dtypes alone. Files are mapped and converted one tensor at a time: the memory needed
beside the model is its largest tensor's.
"""

import json
import mmap
import re
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import safetensors

from common.errors import UserError
from common.files import read_json
from gpt2_jittor.checkpoint.torch_archive import BFLOAT16, open_torch

# In order of preference; an index names the files of a checkpoint in several parts
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)

# what older versions of transformers saved among the weights: the causal mask, and what it puts in a hidden place
MASK = re.compile(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)")
HIDDEN = -1e3  # or less, among attention's scores: its exponential is 0
BODY = ("wte.", "wpe.", "h.", "ln_f.")
# what stands before a model's own names, where it was saved inside of something: `module.`, `model.`, `_orig_mod.` …
WRAPPER = re.compile(r"((?:[^.]+\.)*?)(?:transformer|wte|wpe|h|ln_f|lm_head|score)\.")

SAFETENSORS_DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": BFLOAT16,
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
MAX_HEADER = 1 << 24  # bytes of a safetensors file that describe it; GPT-2 XL's takes 0.06 MB
LISTED = 10  # tensors of one kind in an error message


def read_tensors(
    directory: str | Path, expected: dict[str, tuple[int, ...]] | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields a checkpoint's tensors one at a time: (our name, a float32 array of its own).

    With `expected` (name -> shape) the whole checkpoint is checked before its first tensor is read, and
    exactly these names are yielded, in their order. Raises UserError for missing, damaged or foreign files.
    """
    stored = open_tensors(directory)
    if expected is not None:
        check(expected, shapes_of(stored), directory)
        stored = {name: stored[name] for name in expected}
    yield from read_views(stored, directory)


def read_views(views: dict[str, np.ndarray], directory: str | Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yields opened tensors of `directory` one at a time, as `read_tensors` does."""
    for name, view in views.items():
        array = to_float32(name, view, directory)
        forget(view)
        yield name, array
        del array  # before the next one is made


def open_tensors(directory: str | Path) -> dict[str, np.ndarray]:
    """Maps a checkpoint: our name -> a view of the file, in the stored dtype. Nothing is read yet.

    Causal masks are left out: they must be what this model does without them.
    Raises UserError for missing, damaged or foreign files.
    """
    stored: dict[str, np.ndarray] = {}
    for path in weight_files(Path(directory)):
        opened, _ = open_file(path)
        for key, name in canonical_names(opened).items():
            if MASK.fullmatch(name):
                _check_mask(name, opened[key], path)
                continue
            if name in stored:
                raise UserError(f"{path}: tensor {name} is there twice; get the checkpoint again")
            stored[name] = opened[key]
    return stored


def read_safetensors(path: str | Path) -> dict[str, np.ndarray]:
    """All tensors of one safetensors file under their own keys, in float32. Raises UserError if damaged."""
    return in_float32(open_file(Path(path))[0], path)


def in_float32(views: dict[str, np.ndarray], path: str | Path) -> dict[str, np.ndarray]:
    """What `open_file` mapped, read: float32 arrays of their own.

    Raises UserError for numbers that are no floats or not finite, and where a few bytes stand for many tensors.
    """
    # an archive's tensors may lie over one another, as a tied head's do on its embedding: twice, not thousands of times
    total, stored = sum(view.nbytes for view in views.values()), Path(path).stat().st_size
    if total > 2 * stored:
        raise UserError(f"{path}: {stored:,} bytes stand for tensors of {total:,}; get the file again")
    return {name: to_float32(name, view, path) for name, view in views.items()}


def open_file(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Maps one file of weights, of either format: its own keys -> views in the stored dtype. Nothing is read yet.

    Returns with them what a safetensors file says of itself in words. Raises UserError if damaged.
    """
    with path.open("rb") as file:
        if file.read(23) == b"version https://git-lfs":
            raise UserError(f"{path} is a Git LFS pointer, not the weights; run `git lfs pull` there")
        file.seek(0)
        return (open_torch(path), {}) if path.suffix == ".bin" else _open_safetensors(file, path)


def canonical_names(keys: Iterable[str]) -> dict[str, str]:
    """The checkpoint's key -> our attribute path.

    Checkpoints of the bare `GPT2Model` leave out the leading `transformer.`. Where every key begins with a wrapper's
    name, as `module.` of torch's DataParallel, it is left out. Foreign keys stay as they are.
    """
    keys = list(keys)
    matches = [WRAPPER.match(key) for key in keys]
    wrappers = {match and match[1] for match in matches}
    wrapper = (wrappers.pop() if len(wrappers) == 1 else None) or ""
    names = {key: key.removeprefix(wrapper) for key in keys}
    return {key: f"transformer.{name}" if name.startswith(BODY) else name for key, name in names.items()}


def check(expected: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]], source: str | Path) -> None:
    """Raises one UserError that lists every tensor of a checkpoint that is not as the configuration says."""
    if problems := differences(expected, found):
        raise UserError(f"{source}: weights and config.json disagree; tensors {problems}")


def shapes_of(tensors: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """Each tensor's shape by its name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def differences(expected: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]) -> str:
    """The names that are missing, unexpected or of another shape, in words; empty where there are none."""
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    misshapen = [
        f"{name} {list(found[name])} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in found and tuple(found[name]) != tuple(shape)
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
    return "; ".join(
        f"{len(names)} {kind} ({', '.join(names[:LISTED])}{', …' if len(names) > LISTED else ''})"
        for kind, names in kinds
        if names
    )


def weight_parts(directory: Path) -> list[str] | None:
    """The names of the weight files in a folder, present or not; None where there are no weights at all."""
    name = next((name for name in WEIGHT_FILES if (directory / name).is_file()), None)
    if name is None or not name.endswith(".json"):
        return [name] if name else None
    parts = read_json(directory / name).get("weight_map")
    suffix = Path(name.removesuffix(".index.json")).suffix
    names = set(parts.values()) if isinstance(parts, dict) and all(map(_is_text, parts.values())) else set()
    # a name must stay in its folder: the index may come from anywhere
    if not names or any(Path(part).name != part or not part.endswith(suffix) for part in names):
        raise UserError(f"{directory / name} names no {suffix} files in its weight_map; get it again")
    return sorted(names)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def weight_files(directory: Path) -> list[Path]:
    """The files that hold a checkpoint's tensors. Raises UserError where one is missing."""
    parts = weight_parts(directory)
    if parts is None:
        raise UserError(f"{directory} holds no weights; put model.safetensors or pytorch_model.bin there")
    for path in (directory / part for part in parts):
        if not path.is_file():
            raise UserError(f"{path} is missing: the checkpoint is incomplete; get it again")
    return [directory / part for part in parts]


def identities(directory: Path) -> tuple[tuple[int, ...], ...]:
    """Which files hold a checkpoint's tensors: another one, or one that was written again, is called otherwise.

    Raises UserError where one is missing.
    """
    states = [path.stat() for path in weight_files(directory)]
    return tuple((state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns) for state in states)


def _open_safetensors(file: BinaryIO, path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    try:
        header, start = _read_header(file, path)
        data = np.memmap(file, np.uint8, "r")[start:]
        metadata = header.pop("__metadata__", None) or {}
        # the library's numpy side cannot return bfloat16: views are made here
        return {name: _safetensors_view(data, name, entry) for name, entry in header.items()}, metadata
    except (safetensors.SafetensorError, OSError, ValueError, RecursionError, struct.error) as error:
        raise UserError(f"{path} is not a readable safetensors file ({error}); get it again") from error


def _read_header(file: BinaryIO, path: Path) -> tuple[dict, int]:
    """The header, which the library has checked (names, dtypes, places that tile the file), and where it ends."""
    (length,) = struct.unpack("<Q", file.read(8))
    if length > MAX_HEADER:
        raise ValueError(f"a header of {length:,} bytes")
    with safetensors.safe_open(path, framework="numpy"):
        pass
    return json.loads(file.read(length)), 8 + length


def _safetensors_view(data: np.ndarray, name: str, entry: dict) -> np.ndarray:
    if entry["dtype"] not in SAFETENSORS_DTYPES:
        raise ValueError(f"tensor {name} is stored as {entry['dtype']}, which cannot be read")
    start, end = entry["data_offsets"]
    return data[start:end].view(SAFETENSORS_DTYPES[entry["dtype"]]).reshape(entry["shape"])


def _check_mask(name: str, view: np.ndarray, path: Path) -> None:
    """Raises UserError where a stored mask is not causal attention's, with which alone this model computes."""
    array = view if view.dtype.kind in "iub" else to_float32(name, view, path)
    if name.endswith("masked_bias"):
        sound = array.size == 1 and array.item() <= HIDDEN
    else:
        size = array.shape[-1] if array.ndim else 0
        sound = array.size == size * size and np.array_equal(array.reshape(size, size), np.tri(size, dtype=array.dtype))
    forget(view)
    if not sound:
        raise UserError(f"{path}: {name} is no causal mask: that model attends otherwise than a GPT-2; use another")


def forget(view: np.ndarray) -> None:
    """Gives back the mapped pages behind a view: they would count as this process's memory."""
    while isinstance(view, np.ndarray):
        view = view.base
    if isinstance(view, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        view.madvise(mmap.MADV_DONTNEED)


def to_float32(name: str, view: np.ndarray, directory: str | Path) -> np.ndarray:
    """A tensor, or a part of it, as a float32 array of its own. Raises UserError for what is no finite float."""
    array = as_float32(name, view, directory)
    if np.may_share_memory(array, view):
        array = np.array(array)
    if not np.isfinite(array).all():
        raise UserError(f"{directory}: tensor {name} holds numbers that are not finite; get it again")
    return array


def as_float32(name: str, view: np.ndarray, directory: str | Path) -> np.ndarray:
    """A tensor, or a part of it, in float32, without a copy where it is stored so. Raises UserError for no float."""
    if view.dtype == BFLOAT16:  # the upper half of a float32's bits
        return (view["bfloat16"].astype(np.uint32, order="C") << 16).view(np.float32)
    if view.dtype.kind != "f":
        raise UserError(f"{directory}: tensor {name} is stored as {view.dtype}; use a checkpoint in floats")
    return np.asarray(view, np.float32, order="C")
