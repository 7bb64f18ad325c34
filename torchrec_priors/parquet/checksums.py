"""The checksums in the footer of our Parquet files.

The value of the key CHECKSUMS is a text of hexadecimal digits without spaces between them:

    64 digits       the SHA-256 of the footer, computed with zeros at these 64 digits
    8 digits each   the CRC-32 of the bytes of every column chunk: row group after row group, and
                    column after column within each row group

The footer is checked before anything is parsed, and a column chunk is checked whenever it is read.
A part of a large file can therefore be trusted without reading the whole file. CRC-32 detects
damage, but not deliberate changes.
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
# The last bytes of a file: the length of the footer (4 bytes) and the magic number.
_TAIL = 4 + len(_MAGIC)
# The number of digits of the footer's checksum, and of the checksum of a column chunk.
_FOOTER_DIGITS = 64
_CHUNK_DIGITS = 8
# In Thrift's compact protocol, this byte announces a text in the field that follows the key.
_TEXT_FIELD = b"\x18"
# The number of bytes that are read at a time.
_BLOCK = 1 << 24


class DamagedParquetError(pa.ArrowInvalid):
    """A Parquet file has changed since it was written, or is not a Parquet file."""


@dataclass(frozen=True)
class Footer:
    """The footer of a file.

    Attributes:
        metadata: the parsed footer.
        sha256: the SHA-256 of the footer's bytes.
        chunks: the CRC-32 of every column chunk, row group after row group. None if the file
            stores no such checksums.
    """

    metadata: pq.FileMetaData
    sha256: str
    chunks: list[int] | None

    def check(self, handle: int, group: int, column: int) -> None:
        """Reads a whole column chunk and raises DamagedParquetError if its checksum is wrong.

        Args:
            handle: the file descriptor of the opened file.
            group: the index of the row group.
            column: the index of the column. Parquet may count a nested column as several.
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
    """Reads the footer of a file. The footer is checked before it is parsed.

    Args:
        sha256: the expected checksum of the footer; empty if it was not recorded.

    Raises:
        DamagedParquetError: the footer is damaged, or the file is not a Parquet file.
        OSError: the file cannot be read.
    """
    footer = footer_bytes(file)
    actual = hashlib.sha256(footer).hexdigest()
    if sha256 and actual != sha256:
        raise DamagedParquetError("its footer does not match its checksum")

    # Another program may have copied the checksums from one of our files. Such checksums do not
    # describe this file, so they are ignored.
    position = position_of_checksums(footer)
    if position is not None:
        recorded = footer[position][:_FOOTER_DIGITS].decode("latin1")
        if recorded != own_checksum(footer, position):
            if not _is_from_another_program(footer):
                raise DamagedParquetError("its footer does not match its checksum")
            position = None

    metadata = pq.read_metadata(pa.BufferReader(_MAGIC + footer))
    if position is None:
        return Footer(metadata, actual, None)

    # `fill_in` pads the digits with zeros, so there may be more checksums than column chunks.
    digits = footer[position][_FOOTER_DIGITS:].decode("ascii")
    chunks = [
        int(digits[at : at + _CHUNK_DIGITS], 16) for at in range(0, len(digits), _CHUNK_DIGITS)
    ]
    if len(chunks) < metadata.num_row_groups * metadata.num_columns:
        raise DamagedParquetError("its footer lacks checksums")
    return Footer(metadata, actual, chunks)


def footer_bytes(file: Path) -> bytes:
    """Returns the bytes from the start of the metadata to the end of the file."""
    with file.open("rb") as opened:
        size = opened.seek(0, os.SEEK_END)
        opened.seek(max(0, size - _TAIL))
        tail = opened.read(_TAIL)
        if len(tail) < _TAIL or not tail.endswith(_MAGIC):
            raise DamagedParquetError("it does not end as a Parquet file does")

        length = int.from_bytes(tail[:4], "little") + _TAIL
        if length + len(_MAGIC) > size:
            raise DamagedParquetError("its footer is truncated")

        opened.seek(size - length)
        return opened.read(length)


def position_of_checksums(footer: bytes) -> slice | None:
    """Returns where the value of CHECKSUMS is in the bytes of a footer.

    The bytes are searched for the key, because a footer must be checked before it is parsed.

    Returns:
        The position, or None if the footer has no such key because another program wrote the file.
    """
    key = footer.rfind(CHECKSUMS)
    if key < 0:
        return None
    at = key + len(CHECKSUMS)
    if footer[at : at + 1] != _TEXT_FIELD:
        raise DamagedParquetError("its footer does not match its checksum")

    # The length of the text is stored in groups of seven bits, with the lowest group first. Only
    # the last byte is below 128.
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
    if end > len(footer) or length < _FOOTER_DIGITS or (length - _FOOTER_DIGITS) % _CHUNK_DIGITS:
        raise DamagedParquetError("its footer does not match its checksum")
    return slice(begin, end)


def own_checksum(footer: bytes, position: slice) -> str:
    """Returns the SHA-256 of a footer in which the digits of this checksum are zeros."""
    zeroed = (
        footer[: position.start] + b"0" * _FOOTER_DIGITS + footer[position.start + _FOOTER_DIGITS :]
    )
    return hashlib.sha256(zeroed).hexdigest()


def blank(chunks: int) -> str:
    """Returns the placeholder for the value of CHECKSUMS, which consists of zeros.

    Args:
        chunks: the number of column chunks for which the value has room.
    """
    return "0" * (_FOOTER_DIGITS + _CHUNK_DIGITS * chunks)


def fill_in(file: Path) -> None:
    """Writes the checksums into the footer of a file that is complete except for them."""
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
        room = position.stop - position.start - _FOOTER_DIGITS
        assert len(digits) <= room, "more row groups than were counted"

        # The footer's checksum is computed last because it also covers the digits of the others.
        start = position.start
        filled = (
            footer[: start + _FOOTER_DIGITS] + digits.ljust(room, b"0") + footer[position.stop :]
        )
        checksum = own_checksum(filled, position).encode()
        filled = filled[:start] + checksum + filled[start + _FOOTER_DIGITS :]

        opened.seek(-len(footer), os.SEEK_END)
        opened.write(filled)


def crc_of(handle: int, metadata: pq.FileMetaData, group: int, column: int) -> int:
    """Returns the CRC-32 of the bytes of a column chunk, including the headers of its pages."""
    # A dictionary, if there is one, comes before the data.
    chunk = metadata.row_group(group).column(column)
    starts = [chunk.data_page_offset]
    if chunk.has_dictionary_page and chunk.dictionary_page_offset:
        starts.append(chunk.dictionary_page_offset)

    # `pread` does not move the position of the file, so several threads may read at the same time.
    at = min(starts)
    left = chunk.total_compressed_size
    crc = 0
    while left > 0:
        block = os.pread(handle, min(left, _BLOCK), at)
        if not block:
            raise DamagedParquetError("it is truncated")
        crc = zlib.crc32(block, crc)
        at = at + len(block)
        left = left - len(block)
    return crc


def _is_from_another_program(footer: bytes) -> bool:
    """Returns whether another program wrote the file and copied CHECKSUMS from one of our files.

    Programs that use Arrow copy it. CHECKSUMS is then also in the Arrow schema that the file
    contains in addition to Parquet's schema. Our writer never puts it there.
    """
    match = re.search(rb"ARROW:schema\x18[\x80-\xff]*[\x00-\x7f]([A-Za-z0-9+/=]+)", footer)
    if match is None:
        return False

    # Base64 is decoded in groups of four characters. The pattern may have matched up to three
    # bytes too many.
    schema = match[1][: len(match[1]) // 4 * 4]
    return CHECKSUMS in base64.b64decode(schema)
