"""Records of the usual formats (JSON, CSV, tab-separated, Parquet), each with the place it came from."""

import csv
import io
import itertools
import re
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from datasets import json_values, parquet
from datasets.read import LIMIT, read_text

Record = tuple[str, dict]  # "file:line" and its fields
TRIED = 20  # records by which it is seen what separates their fields
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


def _reader(path: Path, quoted: bool = False) -> Callable[[Path, _Columns], Iterator[Record]]:
    kind = Path(path.name.removesuffix(".gz")).suffix.lower()
    readers: dict[str, Callable] = {".jsonl": _json, ".json": _json, ".csv": _csv, ".tsv": _tsv, ".parquet": _parquet}
    if kind not in readers:
        raise UserError(f"{path} is none of {', '.join(readers)}: convert it, or give the publisher's file")
    return _quoted_tsv if quoted and kind == ".tsv" else readers[kind]


def _json(path: Path, columns: _Columns) -> Iterator[Record]:
    for where, record in json_values.values(read_text(path), path):
        if not isinstance(record, dict):
            raise UserError(f"{where}: a JSON object is needed, not {reprlib.repr(record)}")
        columns.check(record, where)
        yield where, record


def records_of_csv(content: str, place: str, columns: Sequence[str]) -> Iterator[Record]:
    """The records of a text that was read at `place`, as comma-separated values. Raises UserError as `records` does."""
    return _csv_rows(content, place, _Columns(columns, (), {}), ",")


def _csv(path: Path, columns: _Columns, separator: str | None = None) -> Iterator[Record]:
    return _csv_rows(read_text(path), path, columns, separator)


def _csv_rows(content: str, path: Path | str, columns: _Columns, separator: str | None) -> Iterator[Record]:
    """Comma-separated values under a header line; what is in quotes may hold commas, quotes and lines.

    Semicolons or tabs separate them where commas do not, as spreadsheets of some languages write it, and what a first
    line `sep=;` of theirs says.
    """
    csv.field_size_limit(LIMIT)
    named = re.match('"?sep=(.)"?\n', content)
    skipped = named is not None
    separator = separator or (named[1] if named else _separator(content))
    reader = csv.reader(
        io.StringIO(content[named.end() :] if named else content, newline=""), delimiter=separator, strict=True
    )
    try:
        header = [name.strip() for name in next(reader, [])]
        if header:
            columns.check(header, f"{path}:{1 + skipped}")
        line = reader.line_num + 1
        for values in reader:
            where, line = f"{path}:{line + skipped}", reader.line_num + 1
            if not values:
                continue
            if len(values) != len(header):
                raise UserError(f"{where}: {len(values)} fields where the header names {len(header)}: mend the line")
            yield where, dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num + skipped}: this is not CSV ({error}): mend the line") from None


def _separator(content: str) -> str:
    """The first of the usual marks in the header that parts the next records into as many fields as the header has."""
    marks = [mark for mark in ",;\t" if mark in content.partition("\n")[0]]
    return next((mark for mark in marks if _parts(content, mark)), (*marks, ",")[0])


def _parts(content: str, mark: str) -> bool:
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=mark, strict=True)
    try:
        counts = [len(values) for values in itertools.islice(reader, TRIED) if values]
    except csv.Error:
        return False
    return len(set(counts)) == 1 and counts[0] > 1


def _tsv(path: Path, columns: _Columns) -> Iterator[Record]:
    """Tab-separated values under a header line. Quotes are plain characters, as in GLUE's files."""
    lines = read_text(path).split("\n")
    header = [name.strip() for name in lines[0].split("\t")]
    if any(header):
        columns.check(header, f"{path}:1")
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        values = line.split("\t")
        if len(values) != len(header):
            raise UserError(
                f"{path}:{number}: {len(values)} fields where the header names {len(header)}: mend the line"
            )
        yield f"{path}:{number}", dict(zip(header, values, strict=True))


def _quoted_tsv(path: Path, columns: _Columns) -> Iterator[Record]:
    """Tab-separated values as spreadsheets write them, with CSV's quotes; plain ones where the quotes do not fit.

    They do not either where they would make one record of several: a quote in one text may meet another's.
    """
    quoted, plain = _sound(_csv(path, columns, "\t")), _sound(_tsv(path, columns))
    if quoted is not None and (plain is None or len(plain) == len(quoted)):
        yield from quoted
    else:
        yield from _tsv(path, columns) if plain is None else plain  # for its error


def _sound(rows: Iterator[Record]) -> list[Record] | None:
    try:
        return list(rows)
    except UserError:
        return None


def _parquet(path: Path, columns: _Columns) -> Iterator[Record]:
    def wanted(names: Sequence[str]) -> list[str]:
        columns.check(names, str(path))
        return columns.of(names)

    return parquet.rows(path, wanted)
