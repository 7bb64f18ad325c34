"""Writes and reads `config.toml` of a run: the configuration, and a checksum of its lines.

The checksum is in a comment on the last line, so any TOML reader can read the file. A file that was
cut off, damaged or edited does not match the checksum.
"""

import hashlib
import re
from pathlib import Path
from typing import Any

from torchrec_priors.common.files import write_whole
from torchrec_priors.common.toml_text import TomlError, parse_toml
from torchrec_priors.config import parse
from torchrec_priors.errors import UserError
from torchrec_priors.settings.former_keys import with_present_keys
from torchrec_priors.settings.run_config import RunConfig

_LINE = "# Not to be edited: sha256 of the lines above is "
_RUN = "# Of run "
_SIGNED = re.compile(rf"(.*)^{re.escape(_LINE)}([0-9a-f]{{64}})\n", re.DOTALL | re.MULTILINE)


def write_config(file: Path, config: RunConfig, run_id: str = "") -> None:
    """Writes the file, completely or not at all.

    Args:
        config: the configuration.
        run_id: the id that is also in `data.json`. It lets a reader notice a file of another run.
    """
    # The line with the id comes before the line with the checksum, so the checksum includes it.
    text = config.to_toml()
    if run_id:
        text += f"{_RUN}{run_id}\n"
    write_whole(file, f"{text}{_LINE}{_checksum(text)}\n")


def read_config(file: Path, *, signed: bool, run_id: str = "") -> RunConfig:
    """Reads the configuration that `write_config` has written.

    Args:
        signed, run_id: as for `read_values`.

    Raises:
        UserError: as for `read_values`; also if the file has keys or values that this release does
            not know.
    """
    try:
        return parse(read_values(file, signed=signed, run_id=run_id))
    except UserError as error:
        # Messages of `parse` do not name the file; those of `read_values` do.
        if str(file) in str(error):
            raise
        raise UserError(f"'{file}': {error}") from error


def read_values(file: Path, *, signed: bool, run_id: str = "") -> dict[str, Any]:
    """Reads the nested values of the file. Keys that were renamed get their present names.

    Args:
        signed: whether the file must have a checksum. Files of earlier versions have none.
        run_id: the id of the run; if the file contains an id, it must be this one.

    Raises:
        UserError: the file is missing, cannot be read, has changed, or belongs to another run.
    """
    try:
        text = file.read_bytes().decode("utf8")
    except FileNotFoundError as error:
        raise UserError(f"'{file}' is missing: put it back") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"'{file}' cannot be read ({error}): put it back") from error

    # If only the line with the checksum is damaged, the file must not be mistaken for one of an
    # earlier version.
    match = _SIGNED.fullmatch(text)
    if match is None and (signed or _LINE in text):
        raise UserError(f"'{file}' has changed since the run was recorded: put it back")
    if match is not None and _checksum(match[1]) != match[2]:
        raise UserError(f"'{file}' has changed since the run was recorded: put it back")

    named_run = re.search(rf"^{_RUN}([0-9a-f]+)$", text, re.MULTILINE)
    if run_id and named_run is not None and named_run[1] != run_id:
        raise UserError(
            f"'{file}' is not as it was written (it belongs to another run): put it back"
        )

    try:
        return with_present_keys(parse_toml(text))
    except TomlError as error:
        raise UserError(f"'{file}' cannot be read ({error}): put it back") from error


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode("utf8")).hexdigest()
