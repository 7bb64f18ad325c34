"""What the footer of a Parquet file of ours says of the file's bytes.

Under the key CHECKSUMS stand, as texts of hexadecimal digits without spaces between them:

    64 digits       SHA-256 of the footer, in which these 64 digits are zeros
    8 digits each   CRC-32 of the bytes of every column chunk, row group after row group, a column after another

So the footer is known to be right before anything is parsed, and a column chunk whenever it is read: a large file need
not be read as a whole to be trusted. CRC-32 finds damage, not forgery.
"""

import base64
import hashlib
import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

CHECKSUMS = b"torchrec_priors.checksums"

_MAGIC = b"PAR1"
_TAIL = 4 + len(_MAGIC)  # bytes: the footer's length, and the magic
# digits
_OWN = 64
_EACH = 8
_TEXT_FIELD = b"\x18"  # of Thrift's compact protocol: a text in the field after the key's
_BLOCK = 1 << 24  # bytes read at a time


class DamagedParquetError(pa.ArrowInvalid):
    """A Parquet file is not as it was written."""


@dataclass(frozen=True)
class Footer:
    """The footer of a file.

    Attributes:
        sha256: of its bytes.
        chunks: CRC-32 by row group and column; None where the file does not say.
    """

    metadata: pq.FileMetaData
    sha256: str
    chunks: list[int] | None

    def check(self, handle: int, group: int, column: int) -> None:
        """Raises DamagedParquetError where a column chunk is not what was written; reads all of it.

        Args:
            handle: of the opened file.
        """
        if self.chunks is None:
            return
        if (
            crc_of(handle, self.metadata, group, column)
            != self.chunks[group * self.metadata.num_columns + column]
        ):
            path = self.metadata.row_group(group).column(column).path_in_schema
            raise DamagedParquetError(
                f"column '{path.split('.')[0]}' of row group {group} does not match its checksum"
            )


def read_footer(file: Path, sha256: str = "") -> Footer:
    """The footer of a file; nothing of it is parsed before it is checked.

    Args:
        sha256: what it must be; empty where nobody has noted it.

    Raises:
        DamagedParquetError: it is not what was written, or the file is no Parquet file.
        OSError: the file cannot be read.
    """
    footer = footer_bytes(file)
    found = hashlib.sha256(footer).hexdigest()
    if sha256 and found != sha256:
        raise DamagedParquetError("its footer does not match its checksum")

    place = place_of_checksums(footer)
    if place is not None and footer[place][:_OWN].decode("latin1") != own_checksum(footer, place):
        if not _is_of_others(footer):
            raise DamagedParquetError("its footer does not match its checksum")
        place = None

    metadata = pq.read_metadata(pa.BufferReader(_MAGIC + footer))
    if place is None:
        return Footer(metadata, found, None)
    digits = footer[place][_OWN:].decode("ascii")
    chunks = [int(digits[at : at + _EACH], 16) for at in range(0, len(digits), _EACH)]
    if len(chunks) < metadata.num_row_groups * metadata.num_columns:
        raise DamagedParquetError("its footer lacks checksums")
    return Footer(metadata, found, chunks)


def footer_bytes(file: Path) -> bytes:
    """From the metadata to the file's end."""
    with file.open("rb") as opened:
        size = opened.seek(0, os.SEEK_END)
        opened.seek(max(0, size - _TAIL))
        tail = opened.read(_TAIL)
        if len(tail) < _TAIL or not tail.endswith(_MAGIC):
            raise DamagedParquetError("it does not end as a Parquet file does")
        length = int.from_bytes(tail[:4], "little") + _TAIL
        if length + len(_MAGIC) > size:
            raise DamagedParquetError("its footer is cut")
        opened.seek(size - length)
        return opened.read(length)


def place_of_checksums(footer: bytes) -> slice | None:
    """Where the value of CHECKSUMS is in the bytes of a footer; None in files of others.

    It is looked for in the bytes, as a footer must be checked before it is parsed.
    """
    key = footer.rfind(CHECKSUMS)
    if key < 0:
        return None
    at = key + len(CHECKSUMS)
    if footer[at : at + 1] != _TEXT_FIELD:
        raise DamagedParquetError("its footer does not match its checksum")

    length = 0
    shift = 0
    while True:  # a number in groups of seven bits, the lowest first
        at += 1
        if at >= len(footer) or shift > 56:
            raise DamagedParquetError("its footer does not match its checksum")
        length |= (footer[at] & 127) << shift
        shift += 7
        if footer[at] < 128:
            break
    begin = at + 1
    end = at + 1 + length
    if end > len(footer) or length < _OWN or (length - _OWN) % _EACH:
        raise DamagedParquetError("its footer does not match its checksum")
    return slice(begin, end)


def _is_of_others(footer: bytes) -> bool:
    """Whether another program wrote the file and took CHECKSUMS over from one of ours, as Arrow does: it then stands in
    the schema that Arrow keeps beside Parquet's, too, where we never put it."""
    kept = re.search(rb"ARROW:schema\x18[\x80-\xff]*[\x00-\x7f]([A-Za-z0-9+/=]+)", footer)
    return kept is not None and CHECKSUMS in base64.b64decode(kept[1][: len(kept[1]) // 4 * 4])


def own_checksum(footer: bytes, place: slice) -> str:
    """SHA-256 of a footer with zeros where it stands in it."""
    blank = footer[: place.start] + b"0" * _OWN + footer[place.start + _OWN :]
    return hashlib.sha256(blank).hexdigest()


def blank(chunks: int) -> str:
    """As long as the value of CHECKSUMS for so many column chunks."""
    return "0" * (_OWN + _EACH * chunks)


def fill_in(file: Path) -> None:
    """Writes the checksums of a file that is whole, but for those in its footer."""
    footer = footer_bytes(file)
    place = place_of_checksums(footer)
    assert place is not None, "a file that was not made to have checksums"
    metadata = pq.read_metadata(pa.BufferReader(_MAGIC + footer))

    with file.open("r+b") as opened:
        handle = opened.fileno()
        crcs = [
            crc_of(handle, metadata, group, column)
            for group in range(metadata.num_row_groups)
            for column in range(metadata.num_columns)
        ]
        digits = "".join(f"{crc:08x}" for crc in crcs).encode()
        room = place.stop - place.start - _OWN
        assert len(digits) <= room, "more row groups than were counted"

        filled = footer[: place.start + _OWN] + digits.ljust(room, b"0") + footer[place.stop :]
        filled = (
            filled[: place.start]
            + own_checksum(filled, place).encode()
            + filled[place.start + _OWN :]
        )
        opened.seek(-len(footer), os.SEEK_END)
        opened.write(filled)


def crc_of(handle: int, metadata: pq.FileMetaData, group: int, column: int) -> int:
    """CRC-32 of a column chunk's bytes, headers of pages and all."""
    chunk = metadata.row_group(group).column(column)
    starts = [chunk.data_page_offset]
    if chunk.has_dictionary_page and chunk.dictionary_page_offset:
        starts.append(chunk.dictionary_page_offset)
    at = min(starts)
    left = chunk.total_compressed_size
    crc = 0
    while left > 0:
        block = os.pread(handle, min(left, _BLOCK), at)
        if not block:
            raise DamagedParquetError("it is cut")
        crc = zlib.crc32(block, crc)
        at = at + len(block)
        left = left - len(block)
    return crc
