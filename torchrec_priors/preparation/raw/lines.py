"""Reads the lines of raw files as text, with their line numbers."""

import codecs
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from torchrec_priors.errors import UserError, shown
from torchrec_priors.preparation.raw.bad_rows import BadRows
from torchrec_priors.preparation.raw.typed import BYTE_ORDER_MARK, is_text


def lines_of(file: Path, encoding: str, bad_rows: BadRows) -> tuple[pa.Array, pa.Array]:
    """Returns the text and the line number of every line that is valid in the encoding."""
    data = file.read_bytes().removeprefix(BYTE_ORDER_MARK)
    if not data:
        raise UserError(f"{file} is empty")

    # The lines are slices of the file's bytes, so they are not copied. The last step removes their
    # line ends.
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n")) + 1
    offsets = np.unique(np.concatenate([[0], ends, [len(data)]])).astype(np.int64)
    count = len(offsets) - 1
    lines = pa.Array.from_buffers(
        pa.large_binary(), count, [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    )
    numbers = pa.array(np.arange(1, count + 1))

    try:
        text = _decoded(lines, data, encoding)
    except (pa.ArrowInvalid, UnicodeDecodeError):
        # Decoding line by line is slow, but it is only needed if a line is invalid.
        valid = pa.array([is_text(line, encoding) for line in lines.to_pylist()])
        wrong = pc.invert(valid)
        # The slice removes the b'' around the bytes.
        first = str(lines.filter(wrong)[0].as_py())[2:-1]
        example = f"not {encoding} text: {shown(first)}"
        bad_rows.handle(file, numbers.filter(wrong), f"not {encoding} text", example)

        good = lines.filter(valid).to_pylist()
        text = pa.array([line.decode(encoding) for line in good], pa.large_string())
        numbers = numbers.filter(valid)

    return pc.utf8_rtrim(text, characters="\r\n"), numbers


def _decoded(lines: pa.Array, data: bytes, encoding: str) -> pa.Array:
    """Decodes all lines. Raises an error if a line is not valid in the encoding."""
    # Arrow can only decode UTF-8. In other encodings, Python decodes the whole file, and the text
    # is split again.
    if codecs.lookup(encoding).name == "utf-8":
        return lines.cast(pa.large_string())
    text = data.decode(encoding).removesuffix("\n")
    return pa.array(text.split("\n"), pa.large_string())
