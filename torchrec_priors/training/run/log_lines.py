"""Writes and reads lines of `metrics.jsonl`, and checks their checksums.

Each line is a JSON object. Its last value, `crc32`, is a checksum of the rest of the line. If the
process is killed, the last line may be incomplete; it is then ignored. Any other line that does not
match its checksum is damaged, and an error message names it. Lines of earlier versions have no
checksum.
"""

import hashlib
import json
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torchrec_priors.common.checksums import sha256
from torchrec_priors.errors import UserError

CHECKSUM = "crc32"
_SIGNED = re.compile(rf'(.*), "{CHECKSUM}": "([0-9a-f]{{8}})"\}}')


def to_line(values: Mapping[str, Any]) -> str:
    """Returns the line for some values, with its checksum but without its line break.

    >>> to_line({"step": 1})
    '{"step": 1, "crc32": "3daa833a"}'
    """
    body = json.dumps(values).removesuffix("}")
    return f'{body}, "{CHECKSUM}": "{_checksum(body)}"}}'


def length_and_checksum(file: Path) -> dict[str, Any]:
    """Returns a file's length and checksum at the end of training, for `check_beginning`."""
    return {"bytes": file.stat().st_size, "sha256": sha256(file)}


def check_beginning(file: Path, noted: Mapping[str, Any]) -> None:
    """Checks that a file still begins with the content that it had at the end of training.

    A run that is resumed after its end appends to the file. So only the beginning is compared.

    Args:
        noted: the return value of `length_and_checksum` at the end of training.

    Raises:
        UserError: the file begins with other content, or is missing.
    """
    # A missing file is treated like an empty one, and fails the comparison.
    content = file.read_bytes() if file.is_file() else b""
    if hashlib.sha256(content[: noted["bytes"]]).hexdigest() != noted["sha256"]:
        raise UserError(
            f"'{file}' is missing or not as it was when the training ended: "
            "put it back, or train again"
        )


def read_lines(file: Path) -> list[tuple[str, dict[str, Any]]]:
    """Reads the lines of a file: the text of each line, and its values without the checksum.

    If the file does not exist, there are no lines.

    Raises:
        UserError: a line is damaged. An incomplete last line is not an error.
    """
    try:
        # After the last line break there is an incomplete line, or nothing.
        *complete_lines, _ = file.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []

    # The text of a line is also returned, so that a caller can write it again with its checksum.
    lines = []
    for number, line in enumerate(complete_lines, 1):
        try:
            text = line.decode("ascii")
            lines.append((text, _values(text)))
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"'{file}' is damaged in line {number:,}: put it back, or remove that line, "
                "whose figures are then lost"
            ) from error
    return lines


def _values(line: str) -> dict[str, Any]:
    """Returns the values of a line without the checksum; raises ValueError if it is damaged."""
    # Lines of earlier versions have no checksum. If they are damaged, they are usually no longer
    # valid JSON.
    match = _SIGNED.fullmatch(line)
    if match is not None and _checksum(match[1]) != match[2]:
        raise ValueError("it does not match its checksum")

    values = json.loads(line)
    if not isinstance(values, dict) or not isinstance(values.get("step"), int):
        raise ValueError("it holds no step")
    values.pop(CHECKSUM, None)
    return values


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode('ascii')):08x}"
