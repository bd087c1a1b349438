"""What tells a base model from another, as text: its configuration, and a checksum and a few numbers of each tensor.

An adapter carries its base's fingerprint. Two copies of a tensor in one type must have the same checksum. Where one
was rounded to 16 bits, the few numbers are compared at the coarser precision; where one has more tokens, the rows that
both have. What a few numbers cannot see is a copy in bfloat16 of which only some rows were changed afterwards. Needs no
Jittor.
"""

import base64
import functools
import hashlib
import json
import re
import reprlib
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpt2_jittor.checkpoint.config import GPT2Config
from gpt2_jittor.checkpoint.stored import EMBEDDING, HEAD, SCORE, StoredModel, body_shapes
from gpt2_jittor.checkpoint.torch_archive import BFLOAT16
from gpt2_jittor.checkpoint.weights import as_float32, forget, open_tensors, to_float32

VERSION = 2
FIRST_FORM = re.compile(r"[0-9a-f]{64}")  # what adapters carry that were written before: `_first_form`

# what a configuration says of the computation, dropout in training included; the tensors say the rest
COMPUTED = (
    *("n_positions", "n_embd", "n_layer", "n_head", "mlp_size", "activation_function", "layer_norm_epsilon"),
    *("scale_attn_weights", "scale_attn_by_inverse_layer_idx", "resid_pdrop", "embd_pdrop", "attn_pdrop"),
)
SAME_ACTIVATION = {"gelu_pytorch_tanh": "gelu_new", "gelu_fast": "gelu_new", "swish": "silu"}

PRECISIONS = ("float32", "float16", "bfloat16")  # each coarser than those before
# |difference| <= relative * |value| + absolute: what rounding does, and a quarter for a rounding to float16 before it
RELATIVE = (0.0, 1.25 * 2.0**-11, 1.25 * 2.0**-8)
ABSOLUTE = (0.0, 2.0**-24, 2.0**-24)

SAMPLES = 4  # numbers that are kept of a tensor
CANDIDATES = 4096  # evenly spaced, of which they are chosen
# `type` and `precision` are indexes into PRECISIONS: what a file keeps, and what its numbers were rounded to before
RECORD = np.dtype(
    [("checksum", "<u4"), ("type", "u1"), ("precision", "u1"), ("places", "<u4", SAMPLES), ("values", "<f4", SAMPLES)]
)
CHUNK = 1 << 18  # numbers that are read at a time
LISTED = 3  # tensors in a message


@dataclass(frozen=True)
class Base:
    """A base model that `open_model` has opened. Its files stay mapped: one that is replaced on the disk is another."""

    stored: StoredModel

    @property
    def directory(self) -> Path:
        """The base's folder."""
        return self.stored.directory

    @functools.cached_property
    def fingerprint(self) -> str:
        """Read when it is first asked for: it takes the time of reading the whole model."""
        return fingerprint(self.stored)

    def difference(self, text: str, classifies: bool = False) -> str | None:
        """In which way the base with the fingerprint `text` is another, in words; None where it is this one.

        A classifier (`classifies`) does not use a language model's head: its bases may differ in that.
        """
        if FIRST_FORM.fullmatch(text):
            return None if text == _first_form(self.directory) else "its weights differ"
        if text == self.fingerprint:
            return None
        return _difference(text, self.fingerprint, classifies, self.stored.tensors)


def disagreement(text: str, other: str, classifies: bool = False) -> str | None:
    """As `Base.difference`, for two bases that are not at hand. None too where one is of the first form alone."""
    first_forms = [bool(FIRST_FORM.fullmatch(each)) for each in (text, other)]
    if text == other or sum(first_forms) == 1:
        return None
    return "the weights differ" if all(first_forms) else _difference(text, other, classifies)


def fingerprint(stored: StoredModel) -> str:
    """A checkpoint's fingerprint: the same for the same tensors, in whatever files they are."""
    records = base64.b64encode(_records(stored).tobytes()).decode()
    content = _header(stored) | {"tensors": records}
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False)


def digest(stored: StoredModel) -> str:
    """What a checkpoint computes, in 64 characters: the same for the same configuration and the same numbers."""
    content = _header(stored) | {"checksums": _records(stored)["checksum"].tolist()}
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _header(stored: StoredModel) -> dict[str, Any]:
    config = {name: getattr(stored.config, name) for name in (*COMPUTED, "vocab_size")}
    activation = config["activation_function"]
    config["activation_function"] = SAME_ACTIVATION.get(activation, activation)
    if SCORE in stored.tensors:
        config["labels"] = list(stored.config.labels)
    heads = [name for name in (HEAD, SCORE) if name in stored.tensors]
    return {"version": VERSION, "config": config, "heads": heads}


def _records(stored: StoredModel) -> np.ndarray:
    """A RECORD of each tensor, in the order of their names; of files that were read before, those from then."""
    key = (stored.files, *sorted(stored.tensors))
    if key not in _known:
        _known[key] = _read_records(stored)
    return _known[key]


_known: dict[tuple, np.ndarray] = {}  # a model's own copy and its adapter's check each ask for them


def _read_records(stored: StoredModel) -> np.ndarray:
    """A type may be finer than its numbers, which were rounded before.

    All matrices of a type decide together; norms and biases count as rounded only where the matrices are, which some
    round alone.
    """
    records = np.zeros(len(stored.tensors), RECORD)
    # precisions that all numbers of a type have, as far as is known: those of its vectors, and of its matrices
    coarser = [[{1, 2}, {2}, set()] for _ in range(2)]
    is_matrix = np.zeros(len(records), int)
    for index, (name, view) in enumerate(sorted(stored.tensors.items())):
        record, kept_as = records[index], {np.dtype("<f2"): 1, BFLOAT16: 2}.get(view.dtype, 0)
        is_matrix[index] = view.ndim > 1
        known = coarser[is_matrix[index]]
        for values in _chunks(view, name, stored.directory):
            record["checksum"] = zlib.crc32(values, int(record["checksum"]))
            known[kept_as] = {precision for precision in known[kept_as] if _is_rounded(values, precision)}
        record["type"], record["places"] = kept_as, _places(view)
        record["values"] = _values_at(view, record["places"])
        forget(view)
    vectors, matrices = coarser
    whole = [
        found & others for found, others in zip(vectors, matrices, strict=True)
    ]  # zeros and ones alone tell nothing
    precisions = np.array([[max(found, default=t) for t, found in enumerate(known)] for known in (whole, matrices)])
    records["precision"] = precisions[is_matrix, records["type"]]
    return records


def _chunks(view: np.ndarray, name: str = "", directory: str | Path = "") -> Iterator[np.ndarray]:
    """A tensor's numbers in their order, float32, some at a time."""
    flat = view.reshape(-1)
    for start in range(0, flat.size, CHUNK):
        yield as_float32(name, flat[start : start + CHUNK], directory)


def _is_rounded(values: np.ndarray, precision: int) -> bool:
    """Whether these float32 numbers are all of a 16-bit type."""
    if PRECISIONS[precision] == "bfloat16":
        return not (values.view(np.uint32) & 0xFFFF).any()
    with np.errstate(over="ignore"):
        return np.array_equal(values.astype(np.float16), values)


def _places(view: np.ndarray) -> np.ndarray:
    """Where the kept numbers stand: one in the middle, and in each third the one nearest to 0, but not at it.

    A step of training moves all numbers by about as much, rounding the small ones least: there it cannot hide.
    """
    count = min(view.size, 1 << 32)  # a place has 32 bits
    candidates = np.unique(np.linspace(0, count - 1, min(count, CANDIDATES)).astype(np.int64))
    places = [candidates[len(candidates) // 2]]
    for part in np.array_split(np.resize(candidates, max(len(candidates), SAMPLES)), SAMPLES - 1):
        sizes = np.abs(_values_at(view, part))
        places.append(part[np.argmin(np.where(sizes == 0, np.inf, sizes))])
    return np.array(places)


def _values_at(view: np.ndarray, places: np.ndarray) -> np.ndarray:
    """A tensor's numbers at these places, NaN where it ends before."""
    values = np.full(len(places), np.nan, np.float32)
    there = places < view.size
    values[there] = as_float32("", view[np.unravel_index(places[there], view.shape)], "")
    return values


def _parse(text: str) -> tuple[dict[str, Any], dict[str, np.void]] | None:
    """A fingerprint's configuration, and its records by their tensors' names; None where it is none."""
    try:
        content = json.loads(text)
        config, heads = content["config"], content["heads"]
        records = np.frombuffer(base64.b64decode(content["tensors"], validate=True), RECORD)
        layers, rows = config["n_layer"], config["vocab_size"]
        # a block has twelve tensors, and four stand beside: known before as many names are made
        sound = type(layers) is type(rows) is int and layers > 0 and len(records) == 4 + 12 * layers + len(heads)
        if content["version"] != VERSION or not sound or records["precision"].max() >= len(PRECISIONS):
            return None
        names = sorted({*body_shapes(GPT2Config(n_layer=layers)), *heads})
        return config, dict(zip(names, records, strict=True))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _difference(text: str, other: str, classifies: bool, tensors: Mapping[str, np.ndarray] | None = None) -> str | None:
    """How the model of the fingerprint `other`, whose `tensors` may be at hand, differs from that of `text`."""
    parsed, parsed_other = _parse(text), _parse(other)
    if parsed is None or parsed_other is None:
        return "what is said of the adapter's cannot be read"
    (config, records), (found_config, found_records) = parsed, parsed_other
    named = ["labels"] * (SCORE in records and SCORE in found_records)
    changed = [name for name in (*COMPUTED, *named) if config.get(name) != found_config.get(name)]
    if changed:
        words = (f"{n} {reprlib.repr(found_config.get(n))} instead of {reprlib.repr(config.get(n))}" for n in changed)
        return f"its configuration differs: {', '.join(words)}"
    pairs = [(name, name) for name in records if name != HEAD and name in found_records]
    if not classifies and (HEAD in records or HEAD in found_records):  # a head that is not there is the embedding
        pairs.append(tuple(HEAD if HEAD in held else EMBEDDING for held in (records, found_records)))
    sizes, differing = (config["vocab_size"], found_config["vocab_size"]), []
    for name, found in pairs:
        rows = sizes if found in (EMBEDDING, HEAD) else None
        if not _is_same(records[name], found_records[found], rows, None if tensors is None else tensors[found]):
            differing.append(name if name == found else HEAD)
    if not differing:
        return None
    listed = ", ".join(differing[:LISTED]) + ", …" * (len(differing) > LISTED)
    return f"{len(differing)} of {len(pairs)} tensors hold other numbers ({listed})"


def _is_same(record: np.void, found: np.void, rows: tuple[int, int] | None, view: np.ndarray | None) -> bool:
    """Whether two records are of the same tensor. `view`: the one that was found, where it is at hand.

    `rows`: how many each of them has, where they are tokens'; what only one has is not compared.
    """
    alike = all(record[name] == found[name] for name in ("type", "precision"))
    fewer, more = rows or (0, 0)
    if fewer == more and (alike or record["checksum"] == found["checksum"]):
        return bool(record["checksum"] == found["checksum"])
    if view is not None and alike and fewer < more:
        checksum = 0
        for values in _chunks(view[:fewer]):
            checksum = zlib.crc32(values, checksum)
        return checksum == record["checksum"]
    if view is None:
        known = dict(zip(found["places"].tolist(), found["values"].tolist(), strict=True))
        values = np.array([known.get(place, np.nan) for place in record["places"].tolist()])
    else:
        values = _values_at(view, record["places"]).astype(np.float64)
    expected, coarser = record["values"].astype(np.float64), max(record["precision"], found["precision"])
    allowed = RELATIVE[coarser] * np.maximum(np.abs(expected), np.abs(values)) + ABSOLUTE[coarser]
    return bool((np.isnan(values) | (np.abs(values - expected) <= allowed)).all())


def _first_form(directory: Path) -> str:
    """What adapters carried before there were versions: a digest of the numbers at either end of the body's tensors."""
    whole, tensors = hashlib.sha256(), open_tensors(directory)
    for name in sorted(name for name in tensors if name.startswith("transformer.")):
        flat = tensors[name].reshape(-1)
        whole.update(f"{name} {tensors[name].shape} ".encode())
        for some in (flat[:2048], flat[-2048:]):
            with np.errstate(over="ignore"):
                whole.update(to_float32(name, some, directory).astype("<f2").tobytes())
    return whole.hexdigest()
