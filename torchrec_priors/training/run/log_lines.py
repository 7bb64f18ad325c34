"""Lines of `metrics.jsonl`: an object each; its last value, `crc32`, is a checksum of the rest.

A kill may cut the last line; it then counts as not written. Any other line that is not as written
is damaged, and the message names it. Lines of earlier versions have no checksum.
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
    """Returns the line without its line break.

    >>> to_line({"step": 1})
    '{"step": 1, "crc32": "3daa833a"}'
    """
    body = json.dumps(values).removesuffix("}")
    return f'{body}, "{CHECKSUM}": "{_checksum(body)}"}}'


def length_and_checksum(file: Path) -> dict[str, Any]:
    """Returns the state of the file when a training ends, for `check_beginning`."""
    return {"bytes": file.stat().st_size, "sha256": sha256(file)}


def check_beginning(file: Path, noted: Mapping[str, Any]) -> None:
    """Checks that a file still begins as it was when a training ended.

    A training that was resumed adds to the file after that, so only its beginning is compared.

    Args:
        noted: what `length_and_checksum` returned.

    Raises:
        UserError: the file begins with something else.
    """
    # A missing file and an empty one are the same: neither begins as it did.
    content = file.read_bytes() if file.is_file() else b""
    if hashlib.sha256(content[: noted["bytes"]]).hexdigest() != noted["sha256"]:
        raise UserError(
            f"'{file}' is missing or not as it was when the training ended: "
            "put it back, or train again"
        )


def read_lines(file: Path) -> list[tuple[str, dict[str, Any]]]:
    """Reads the lines of a file and what they hold, without checksums; none if there is no file.

    Raises:
        UserError: a line, other than a last one that was cut, is not as written.
    """
    try:
        # What follows the last line break was cut, or is empty.
        *whole, _ = file.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []

    # The text of a line is returned, too: writing it again keeps its checksum.
    lines = []
    for number, line in enumerate(whole, 1):
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
    """Reads a line; raises ValueError if it is not as written."""
    # Lines of earlier versions have no checksum; JSON finds most damage in these.
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
