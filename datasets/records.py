"""Records of the usual formats (JSON, CSV, tab-separated, Parquet), each with the place it came from."""

import re
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from common.errors import UserError
from datasets import json_values, parquet, tables
from datasets.read import read_text

Record = tuple[str, dict]  # "file:line" and its fields
PACKED = (".jsonl", ".json", ".csv", ".tsv")  # what may be packed, as .gz
SURROGATE = re.compile(r"[\ud800-\udfff]")  # half of a character: JSON can spell it, UTF-8 and tokenizers cannot


def find(data_dir: Path, names: Sequence[str], what: str) -> Path:
    """`data_dir` itself where it is a file, else the first of `names` in it. Raises UserError where none is there."""
    if data_dir.is_file():
        return data_dir
    for name in names:
        if (data_dir / name).is_file():
            return data_dir / name
    raise UserError(f"{data_dir} has none of {_spelled(names)}: give {what}")


@dataclass(frozen=True)
class _Columns:
    """What is to be read of a record: fields that it needs, others that it may have; other names that they go by."""

    needed: Sequence[str]
    optional: Sequence[str]
    aliases: Mapping[str, str]

    def check(self, fields: Iterable[str], where: str) -> None:
        """Raises UserError where a record or a file with these fields lacks one, or has it twice."""
        fields = list(fields)
        if twice := [name for name in self.of(fields) if fields.count(name) > 1]:
            raise UserError(f"{where}: there are two columns {twice[0]!r}: rename or remove one")
        present = {self.aliases.get(name, name) for name in fields}
        if missing := [name for name in self.needed if name not in present]:
            needed = ", ".join(self.needed)
            raise UserError(f"{where}: the field {missing[0]!r} is missing: each record needs {needed}")

    def of(self, fields: Sequence[str]) -> list[str]:
        """Those of a file's fields that are wanted, by the file's names."""
        wanted = {*self.needed, *self.optional}
        return [name for name in fields if name in wanted or self.aliases.get(name) in wanted - set(fields)]

    def named(self, record: dict) -> dict:
        """The record with our names; where it has both, a field of another name is let be."""
        others = {name: self.aliases[name] for name in record if self.aliases.get(name, name) not in record}
        return {others.get(name, name): value for name, value in record.items()} if others else record


def files(*names: str) -> list[str]:
    """Each name with each ending that `records` reads."""
    endings = [f"{ending}{packed}" for ending in PACKED for packed in ("", ".gz")]
    return [f"{name}{ending}" for name in names for ending in (*endings, ".parquet")]


def _spelled(names: Sequence[str]) -> str:
    """Names of files in a few words: `train.jsonl, .json, .csv, dev.tsv`; that each may end in .gz is not said."""
    endings: dict[str, list[str]] = {}
    for path in (Path(name) for name in names if not name.endswith(".gz")):
        endings.setdefault(str(path.with_suffix("")), []).append(path.suffix)
    return ", ".join(stem + ", ".join(found) for stem, found in endings.items())


def records(
    path: Path,
    columns: Sequence[str],
    wanted: str = "",
    optional: Sequence[str] = (),
    aliases: Mapping[str, str] | None = None,
    quoted: bool = False,
) -> Iterator[Record]:
    """The records of a file, read as its name says (.jsonl, .json, .csv, .tsv, each also .gz, or .parquet), one by one.

    `optional` are columns that may be missing or null, and are an empty text then; `aliases` other names of columns,
    {"review": "text"}. `quoted`: quotes of a .tsv are those of CSV, where they fit. Raises UserError,
    naming file and line, where a record is broken or lacks one of `columns`, and, saying what is `wanted`, where there
    is none.
    """
    read, known, empty = _reader(path, quoted), _Columns(columns, optional, aliases or {}), True
    for where, record in read(path, known):
        empty = False
        record = known.named(record)
        missing = {name: "" for name in optional if record.get(name) is None}
        yield where, record | missing if missing else record
    if empty:
        raise UserError(f"{path} is empty: give {wanted or 'a file with records of ' + ', '.join(columns)}")


def fields(path: Path, quoted: bool = False) -> list[str]:
    """The names of a file's columns, or of its records' fields, in the order in which they come.

    `quoted` as of `records`. Raises UserError where there is no record.
    """
    read = _reader(path, quoted)
    if read is _parquet:
        return parquet.column_names(path)
    found = dict.fromkeys(name for _, record in read(path, _Columns((), (), {})) for name in record)
    if not found:
        raise UserError(f"{path} has no record: give another file")
    return list(found)


def text(record: dict, name: str, where: str, required: bool = True) -> str:
    """A field that is text, stripped.

    Raises UserError where it is not, cannot be written as UTF-8, or is empty although `required`.
    """
    value = record[name]
    if not isinstance(value, str):
        raise UserError(f"{where}: the field {name!r} must be text, not {reprlib.repr(value)}")
    if half := SURROGATE.search(value):
        raise UserError(f"{where}: the field {name!r} holds half of a character ({half[0]!r}): mend or remove the line")
    if required and not value.strip():
        raise UserError(f"{where}: the field {name!r} is empty")
    return value.strip()


def label(value: object, labels: Sequence[str], where: str) -> int:
    """A class given by its name, in capitals or not, or by its number. Raises UserError for any other."""
    if isinstance(value, str):
        name = value.strip()
        if name.lower() in labels:
            return labels.index(name.lower())
        value = int(name) if re.fullmatch("[0-9]{1,9}", name) else value  # of a .csv, where all is text
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(labels):
        return value
    raise UserError(f"{where}: there is no label {reprlib.repr(value)}: the labels are {', '.join(labels)}")


def can_read(path: Path) -> bool:
    """Whether `records` reads files that are called so."""
    return _kind(path) in (*PACKED, ".parquet")


def _kind(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix.lower().replace(".ndjson", ".jsonl")


def _reader(path: Path, quoted: bool = False) -> Callable[[Path, _Columns], Iterator[Record]]:
    kind = _kind(path)
    tab_separated = tables.of_spreadsheet if quoted else tables.tab_separated
    readers: dict[str, Callable] = {
        ".jsonl": _json,
        ".json": _json,
        ".csv": partial(_table, tables.comma_separated),
        ".tsv": partial(_table, tab_separated),
        ".parquet": _parquet,
    }
    if kind not in readers:
        raise UserError(f"{path} is none of {', '.join(readers)}: convert it, or give the publisher's file")
    return readers[kind]


def _json(path: Path, columns: _Columns) -> Iterator[Record]:
    for where, record in json_values.values(read_text(path), path):
        if not isinstance(record, dict):
            raise UserError(f"{where}: a JSON object is needed, not {reprlib.repr(record)}")
        columns.check(record, where)
        yield where, record


def records_of_csv(content: str, place: str, columns: Sequence[str]) -> Iterator[Record]:
    """The records of a text that was read at `place`, as comma-separated values. Raises UserError as `records` does."""
    return _of_rows(tables.comma_separated(content, place, ","), _Columns(columns, (), {}))


def _table(read: Callable[[str, Path], Iterator[tables.Row]], path: Path, columns: _Columns) -> Iterator[Record]:
    return _of_rows(read(read_text(path), path), columns)


def _of_rows(rows: Iterator[tables.Row], columns: _Columns) -> Iterator[Record]:
    """Each row under the header as a record."""
    where, header = next(rows, ("", []))
    names = [name.strip() for name in header]
    if names:
        columns.check(names, where)
    for where, cells in rows:
        yield where, dict(zip(names, cells, strict=True))


def _parquet(path: Path, columns: _Columns) -> Iterator[Record]:
    def wanted(names: Sequence[str]) -> list[str]:
        columns.check(names, str(path))
        return columns.of(names)

    return parquet.rows(path, wanted)
