"""Describes how a CSV file is written, and opens files that may be compressed."""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BufferedIOBase
from pathlib import Path

from torchrec_priors.errors import UserError
from torchrec_priors.preparation.raw.times import TimeForm

# The first bytes of compressed files. The name of a file does not matter.
_GZ = b"\x1f\x8b"
_BZ2 = b"BZh"
_XZ = b"\xfd7zXZ\x00"
# The first bytes of files that cannot be read, with a description and the remedy.
_NOT_CSV = (
    (b"PK\x03\x04", "an archive or a workbook", "unpack it, or save it as CSV"),
    (b"\xff\xfe", "text in UTF-16", "save it as UTF-8"),
    (b"\xfe\xff", "text in UTF-16", "save it as UTF-8"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it, or use gzip"),
)


@dataclass(frozen=True)
class CsvForm:
    """How a CSV file with a header is written.

    Attributes:
        delimiter: the character between two values.
        joins_lines: whether a line break in a value becomes a blank. Otherwise a row with a line
            break in a requested column is a bad row.
        times: the forms of columns of times, by name. These columns are read as milliseconds.
    """

    delimiter: str = ","
    joins_lines: bool = False
    times: Mapping[str, TimeForm] = field(default_factory=dict)


@contextmanager
def opened(file: Path) -> Iterator[BufferedIOBase]:
    """Opens a file; one that is compressed with gzip, bzip2 or xz is decompressed as it is read.

    Raises:
        UserError: the file cannot be text in UTF-8, or is damaged.
    """
    with file.open("rb") as stream:
        start = stream.read(8)
    for mark, description, remedy in _NOT_CSV:
        if start.startswith(mark):
            raise UserError(f"{file} is {description}: {remedy}")

    try:
        with _opener(start, file) as content:
            yield content
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
        raise UserError(f"{file} is damaged ({error}): get it again") from error


def _opener(start: bytes, file: Path) -> BufferedIOBase:
    if start.startswith(_GZ):
        return gzip.open(file, "rb")
    if start.startswith(_BZ2):
        return bz2.open(file, "rb")
    if start.startswith(_XZ):
        return lzma.open(file, "rb")
    return file.open("rb")
