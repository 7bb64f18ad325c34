"""The checksums in the footer of our Parquet files.

The value of the key CHECKSUMS is a text of hexadecimal digits without spaces between them:

    64 digits       SHA-256 of the footer, in which these 64 digits are zeros 8 digits each   CRC-32
    of the bytes of every column chunk, row group after row group, and in each
                    column after column

So the footer is checked before anything is parsed, and a column chunk whenever it is read: a large
file need not be read as a whole to be trusted. CRC-32 finds damage, not forgery.
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
# Bytes: the footer's length, and the magic.
_TAIL = 4 + len(_MAGIC)
# Digits of the footer's own checksum, and of each column chunk's.
_OWN = 64
_EACH = 8
# Thrift's compact protocol: a text in the field after the key's.
_TEXT_FIELD = b"\x18"
# Bytes read at a time.
_BLOCK = 1 << 24


class DamagedParquetError(pa.ArrowInvalid):
    """A Parquet file is not as it was written."""


@dataclass(frozen=True)
class Footer:
    """The footer of a file.

    Attributes:
        sha256: checksum of its bytes.
        chunks: CRC-32 by row group and column; None if the file has none.
    """

    metadata: pq.FileMetaData
    sha256: str
    chunks: list[int] | None

    def check(self, handle: int, group: int, column: int) -> None:
        """Raises DamagedParquetError if a column chunk is not what was written; reads all of it.

        Args:
            handle: file descriptor of the opened file.
        """
        if self.chunks is None:
            return

        expected = self.chunks[group * self.metadata.num_columns + column]
        if crc_of(handle, self.metadata, group, column) != expected:
            path = self.metadata.row_group(group).column(column).path_in_schema
            raise DamagedParquetError(
                f"column '{path.split('.')[0]}' of row group {group} does not match its checksum"
            )


def read_footer(file: Path, sha256: str = "") -> Footer:
    """Reads the footer of a file; nothing of it is parsed before it is checked.

    Args:
        sha256: the checksum that it must have; empty if it was not recorded.

    Raises:
        DamagedParquetError: it is not what was written, or the file is not a Parquet file.
        OSError: the file cannot be read.
    """
    footer = footer_bytes(file)
    actual = hashlib.sha256(footer).hexdigest()
    if sha256 and actual != sha256:
        raise DamagedParquetError("its footer does not match its checksum")

    # Checksums that another program copied from one of our files are not of this file.
    position = position_of_checksums(footer)
    if position is not None:
        recorded = footer[position][:_OWN].decode("latin1")
        if recorded != own_checksum(footer, position):
            if not _is_of_others(footer):
                raise DamagedParquetError("its footer does not match its checksum")
            position = None

    metadata = pq.read_metadata(pa.BufferReader(_MAGIC + footer))
    if position is None:
        return Footer(metadata, actual, None)

    # There may be more digits than column chunks: `fill_in` pads them with zeros.
    digits = footer[position][_OWN:].decode("ascii")
    chunks = [int(digits[at : at + _EACH], 16) for at in range(0, len(digits), _EACH)]
    if len(chunks) < metadata.num_row_groups * metadata.num_columns:
        raise DamagedParquetError("its footer lacks checksums")
    return Footer(metadata, actual, chunks)


def footer_bytes(file: Path) -> bytes:
    """The bytes from the metadata to the file's end."""
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


def position_of_checksums(footer: bytes) -> slice | None:
    """The position of the value of CHECKSUMS in the bytes of a footer; None in files of others.

    It is searched in the bytes, as a footer must be checked before it is parsed.
    """
    key = footer.rfind(CHECKSUMS)
    if key < 0:
        return None
    at = key + len(CHECKSUMS)
    if footer[at : at + 1] != _TEXT_FIELD:
        raise DamagedParquetError("its footer does not match its checksum")

    # The text's length is in groups of seven bits, the lowest first; the last byte is below 128.
    length = 0
    shift = 0
    while True:
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


def own_checksum(footer: bytes, position: slice) -> str:
    """SHA-256 of a footer with zeros in place of this checksum."""
    zeroed = footer[: position.start] + b"0" * _OWN + footer[position.start + _OWN :]
    return hashlib.sha256(zeroed).hexdigest()


def blank(chunks: int) -> str:
    """Zeros, as many as the value of CHECKSUMS has digits for this number of column chunks."""
    return "0" * (_OWN + _EACH * chunks)


def fill_in(file: Path) -> None:
    """Writes the checksums into the footer of a file that is complete except for these."""
    footer = footer_bytes(file)
    position = position_of_checksums(footer)
    assert position is not None, "a file that was not written to have checksums"
    metadata = pq.read_metadata(pa.BufferReader(_MAGIC + footer))

    with file.open("r+b") as opened:
        handle = opened.fileno()
        crcs = [
            crc_of(handle, metadata, group, column)
            for group in range(metadata.num_row_groups)
            for column in range(metadata.num_columns)
        ]
        digits = "".join(f"{crc:08x}" for crc in crcs).encode()
        room = position.stop - position.start - _OWN
        assert len(digits) <= room, "more row groups than were counted"

        # The footer's own checksum comes last, as it is also of the other digits.
        start = position.start
        filled = footer[: start + _OWN] + digits.ljust(room, b"0") + footer[position.stop :]
        checksum = own_checksum(filled, position).encode()
        filled = filled[:start] + checksum + filled[start + _OWN :]

        opened.seek(-len(footer), os.SEEK_END)
        opened.write(filled)


def crc_of(handle: int, metadata: pq.FileMetaData, group: int, column: int) -> int:
    """CRC-32 of a column chunk's bytes, including the headers of pages."""
    # The dictionary is before the data, if there is one.
    chunk = metadata.row_group(group).column(column)
    starts = [chunk.data_page_offset]
    if chunk.has_dictionary_page and chunk.dictionary_page_offset:
        starts.append(chunk.dictionary_page_offset)

    # `pread` does not move the file's position, so threads may read at the same time.
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


def _is_of_others(footer: bytes) -> bool:
    """Whether another program wrote the file and copied CHECKSUMS from one of ours, as Arrow does.

    CHECKSUMS is then also in the schema that Arrow keeps next to Parquet's, where we never put it.
    """
    match = re.search(rb"ARROW:schema\x18[\x80-\xff]*[\x00-\x7f]([A-Za-z0-9+/=]+)", footer)
    if match is None:
        return False

    # Base64 is decoded in groups of four; the pattern may have matched a few bytes too many.
    schema = match[1][: len(match[1]) // 4 * 4]
    return CHECKSUMS in base64.b64decode(schema)
