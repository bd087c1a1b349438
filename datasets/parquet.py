"""Parquet's rows as records, no more in memory than is allowed, whatever a file says of itself."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.files import open_regular
from datasets.read import LIMIT

BATCH = 1024  # rows that are objects at the same time
SHORT = {"halffloat": np.float16, "float": np.float32}  # Arrow's names
ROWS = 1 << 24  # of a file: a few bytes can stand for any number of them


def column_names(path: Path) -> list[str]:
    """The names of a file's columns. Raises UserError where it is no sound Parquet file."""
    with _sound(path), _opened(path) as file:
        return file.schema_arrow.names


def rows(path: Path, wanted: Callable[[Sequence[str]], Sequence[str]]) -> Iterator[tuple[str, dict]]:
    """Each row's place, "file:row number", and those of its columns that `wanted` picks of all their names.

    Raises UserError where the file is broken, or unpacks to more than LIMIT bytes.
    """
    with _sound(path):
        with _opened(path) as file:
            names = wanted(file.schema_arrow.names)
            texts, at_once = _check_sizes(file, names, path)
        # a text that stands there many times is in memory once, until it is known how much all of them are
        with _opened(path, read_dictionary=texts) as file:
            number = size = 0
            for batch in file.iter_batches(at_once, columns=names):
                size += sum(map(_size, batch.columns))
                if size > LIMIT:
                    raise UserError(_too_large(path, f"more than {LIMIT:,} bytes"))
                short = {field.name: SHORT[str(field.type)] for field in batch.schema if str(field.type) in SHORT}
                for record in batch.to_pylist():
                    number += 1
                    for name, kind in short.items():
                        if record[name] is not None:  # the shortest number that is this one: 0.1, not 0.10000000149
                            record[name] = float(str(kind(record[name])))
                    yield f"{path}:row {number}", record


@contextlib.contextmanager
def _sound(path: Path) -> Iterator[None]:
    """Turns what is wrong with a file into the user's error."""
    import pyarrow  # only here: it takes half a second to import

    try:
        yield
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path} is not a sound Parquet file ({reason}): get it again") from error


@contextlib.contextmanager
def _opened(path: Path, **options) -> Iterator:
    import pyarrow.parquet

    with open_regular(path) as opened, pyarrow.parquet.ParquetFile(opened, **options) as file:
        yield file


def _check_sizes(file, columns: Sequence[str], path: Path) -> tuple[list[str], int]:
    """The texts among the columns that Arrow can read as dictionaries, and how many rows to read at once.

    Raises UserError where the columns unpack to more than `LIMIT` bytes. Of a text that is stored as what differs
    from the one before, a batch is no larger than `LIMIT` even where each row repeats all of it.
    """
    meta, wanted = file.metadata, []
    if meta.num_rows > ROWS:
        raise UserError(_too_large(path, f"{meta.num_rows:,} rows"))
    for index in range(meta.num_columns):
        column = file.schema.column(index)
        if column.path.partition(".")[0] in columns:
            wanted.append((index, column))
    chunks = [meta.row_group(group).column(index) for group in range(meta.num_row_groups) for index, _ in wanted]
    size = sum(max(0, chunk.total_uncompressed_size) for chunk in chunks)
    if size > LIMIT:
        raise UserError(_too_large(path, f"{size:,} bytes"))
    differing = {chunk.path_in_schema for chunk in chunks if any("DELTA" in name for name in chunk.encodings)}
    largest = max((chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema in differing), default=0)
    texts = [column.path for _, column in wanted if column.physical_type == "BYTE_ARRAY"]
    rows = max(1, min(BATCH, LIMIT // max(largest, 1)))
    return [text for text in texts if text not in differing], rows


def _size(array) -> int:
    """How many bytes an Arrow array's values take, each counted as often as it stands there."""
    import pyarrow
    import pyarrow.compute

    if pyarrow.types.is_dictionary(array.type):
        lengths = pyarrow.compute.binary_length(array.dictionary).cast("int64").take(array.indices)
        return (pyarrow.compute.sum(lengths).as_py() or 0) + 8 * len(array)
    if pyarrow.types.is_struct(array.type):
        return sum(map(_size, array.flatten()))
    if pyarrow.types.is_list(array.type) or pyarrow.types.is_large_list(array.type):
        return _size(array.flatten()) + 8 * len(array)
    return array.nbytes


def _too_large(path: Path, what: str) -> str:
    return f"{path} unpacks to {what}: is it the publisher's file? Of your own, give less"
