"""Reading what others wrote: bounded, in memory, and with errors that name the file and the line."""

import gzip
import lzma
import zipfile
import zlib
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from pathlib import Path

from common.errors import UserError
from common.files import open_regular

# what files of other kinds begin with
OTHERS = {
    b"\x1f\x8b": "packed by gzip: give it a name that ends in .gz",
    b"PK\x03\x04": "a zip or a spreadsheet: unpack it, or save it as .csv",
    b"PAR1": "Parquet: give it a name that ends in .parquet",
}
LIMIT = 1 << 28  # 256 MiB unpacked; the largest dataset here has 35 MiB


def read_text(path: Path) -> str:
    """The file as UTF-8 text, unpacked where it ends in .gz.

    Raises UserError where it is missing, broken, not UTF-8, or unpacks to more than `LIMIT` bytes.
    """
    try:
        with open_regular(path) as file, gzip.open(file) if path.suffix == ".gz" else file as stream:
            data = stream.read(LIMIT + 1)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise UserError(f"{path} is not a sound gzip file ({error}): get it again") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > LIMIT:
        raise UserError(f"{path} holds more than {LIMIT:,} bytes: is it the publisher's file? Of your own, give less")
    return decode(data, str(path))


def read_zip_member(path: Path, member: str) -> str:
    """One member of a zip as UTF-8 text; nothing is unpacked to disk, and never more than `LIMIT` bytes.

    Raises UserError where the zip is broken, has no such member, or unpacks to more than that.
    """
    broken = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError, ValueError)
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive, archive.open(member) as stream:
            data = stream.read(LIMIT + 1)  # the sizes a zip states about itself are not to be relied on
    except KeyError:
        raise UserError(f"{path} has no member {member}: is it the publisher's file?") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except broken as error:
        raise UserError(f"{path} is not a sound zip file ({error}): get it again") from error
    if len(data) > LIMIT:
        raise UserError(f"{path}: {member} unpacks to more than {LIMIT:,} bytes: is it the publisher's file?")
    return decode(data, f"{path}/{member}")


def decode(data: bytes, where: str) -> str:
    """UTF-8 bytes as text, without a byte order mark and with "\\n" at every line's end.

    Raises UserError with file and line where the bytes are not UTF-8.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        for magic, what in OTHERS.items():
            if data.startswith(magic):
                raise UserError(f"{where} is no text, but {what}") from None
        line = data.count(b"\n", 0, error.start) + 1
        found = ", but UTF-16" if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else ""
        raise UserError(f"{where}:{line}: this is not UTF-8 text{found}: convert the file to UTF-8") from None
    return text.replace("\r\n", "\n")
