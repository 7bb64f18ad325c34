"""Lines of `metrics.jsonl`: an object each, whose last value, `crc32`, is a checksum of the line before it.

A kill may cut the last line, which is then as if it had not been written. Anything else that is not as it was written
is damage, and is named. Lines of earlier versions have no checksum.
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
    """The line without its end.

    >>> to_line({"step": 1})
    '{"step": 1, "crc32": "3daa833a"}'
    """
    body = json.dumps(values).removesuffix("}")
    return f'{body}, "{CHECKSUM}": "{_checksum(body)}"}}'


def length_and_checksum(file: Path) -> dict[str, Any]:
    """Of the file as it is when a training ends."""
    return {"bytes": file.stat().st_size, "sha256": sha256(file)}


def check_beginning(file: Path, noted: Mapping[str, Any]) -> None:
    """A training that was gone on with adds to what was there when it ended.

    Raises:
        UserError: the file does not begin with what `length_and_checksum` noted.
    """
    content = file.read_bytes() if file.is_file() else b""
    if hashlib.sha256(content[: noted["bytes"]]).hexdigest() != noted["sha256"]:
        raise UserError(
            f"'{file}' is missing or not as it was when the training ended: put it back, or train again"
        )


def read_lines(file: Path) -> list[tuple[str, dict[str, Any]]]:
    """The lines of a file and what they hold, without checksums; none where there is no file.

    Raises:
        UserError: a line, other than a last one that was cut, is not as it was written.
    """
    try:
        *whole, _ = file.read_bytes().split(b"\n")  # what follows the last line's end was cut
    except FileNotFoundError:
        return []
    found = []
    for number, line in enumerate(whole, 1):
        try:
            text = line.decode("ascii")
            found.append((text, _values(text)))
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"'{file}' is damaged in line {number:,}: put it back, or remove that line, whose figures are then lost"
            ) from error
    return found


def _values(line: str) -> dict[str, Any]:
    """Raises ValueError where it is not as it was written."""
    signed = _SIGNED.fullmatch(line)
    if signed is not None and _checksum(signed[1]) != signed[2]:
        raise ValueError("it does not match its checksum")
    values = json.loads(line)
    if not isinstance(values, dict) or not isinstance(values.get("step"), int):
        raise ValueError("it holds no step")
    values.pop(CHECKSUM, None)
    return values


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode('ascii')):08x}"
