"""`config.toml` of a run: its configuration, and in a last comment the checksum of the lines above.

Any TOML reader takes the file, and one that was cut, damaged or edited can be distinguished from
what was recorded.
"""

import hashlib
import re
from pathlib import Path
from typing import Any

from torchrec_priors.common.files import write_whole
from torchrec_priors.common.toml_text import TomlError, parse_toml
from torchrec_priors.config import RunConfig, parse
from torchrec_priors.errors import UserError
from torchrec_priors.settings.former_keys import with_present_keys

_LINE = "# Not to be edited: sha256 of the lines above is "
_RUN = "# Of run "
_SIGNED = re.compile(rf"(.*)^{re.escape(_LINE)}([0-9a-f]{{64}})\n", re.DOTALL | re.MULTILINE)


def write_config(file: Path, config: RunConfig, run_id: str = "") -> None:
    """Writes the whole file or nothing.

    Args:
        run_id: as in `data.json`, so that the file of another run is noticed.
    """
    # The id is above the line of the checksum, so it is covered by it.
    text = config.to_toml()
    if run_id:
        text += f"{_RUN}{run_id}\n"
    write_whole(file, f"{text}{_LINE}{_checksum(text)}\n")


def read_config(file: Path, *, signed: bool, run_id: str = "") -> RunConfig:
    """Reads what `write_config` wrote; arguments and errors as for `read_values`.

    Raises:
        UserError: also if it has keys or values that this release does not know.
    """
    try:
        return parse(read_values(file, signed=signed, run_id=run_id))
    except UserError as error:
        # `parse` only knows the key; `read_values` has already named the file.
        if str(file) in str(error):
            raise
        raise UserError(f"'{file}': {error}") from error


def read_values(file: Path, *, signed: bool, run_id: str = "") -> dict[str, Any]:
    """Reads the nested values of the file, as TOML gives them, by the present names of their keys.

    Args:
        signed: whether the file must have a checksum; those of earlier versions have none.
        run_id: the run whose file it must be, if the file names one.

    Raises:
        UserError: the file is missing, cannot be read, or is not what was written.
    """
    try:
        text = file.read_bytes().decode("utf8")
    except FileNotFoundError as error:
        raise UserError(f"'{file}' is missing: put it back") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"'{file}' cannot be read ({error}): put it back") from error

    # A file with a damaged line of the checksum must not pass for one of an earlier version.
    match = _SIGNED.fullmatch(text)
    if match is None and (signed or _LINE in text):
        raise UserError(f"'{file}' has changed since the run was recorded: put it back")
    if match is not None and _checksum(match[1]) != match[2]:
        raise UserError(f"'{file}' has changed since the run was recorded: put it back")

    named_run = re.search(rf"^{_RUN}([0-9a-f]+)$", text, re.MULTILINE)
    if run_id and named_run is not None and named_run[1] != run_id:
        raise UserError(f"'{file}' is not as it was written (it is of another run): put it back")

    try:
        return with_present_keys(parse_toml(text))
    except TomlError as error:
        raise UserError(f"'{file}' cannot be read ({error}): put it back") from error


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode("utf8")).hexdigest()
