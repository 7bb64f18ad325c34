"""`config.toml` of a run: its configuration, and below it, as a comment, the checksum of the lines above.

So any TOML reader takes the file, and one that was cut, damaged or edited is told from what was recorded.
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
    """Whole or not at all; `run_id` as in `data.json`, so that the file of another run is known."""
    text = config.to_toml() + (f"{_RUN}{run_id}\n" if run_id else "")
    write_whole(file, f"{text}{_LINE}{_checksum(text)}\n")


def read_config(file: Path, *, signed: bool, run_id: str = "") -> RunConfig:
    """What `write_config` wrote; arguments and errors as for `read_values`.

    Raises:
        UserError: also where it has keys or values that this release does not know.
    """
    try:
        return parse(read_values(file, signed=signed, run_id=run_id))
    except UserError as error:
        if str(file) in str(error):
            raise
        raise UserError(f"'{file}': {error}") from error


def read_values(file: Path, *, signed: bool, run_id: str = "") -> dict[str, Any]:
    """The nested values of the file, as TOML gives them, by the present names of their keys.

    Args:
        signed: whether the file must have a checksum; those of earlier versions have none.
        run_id: of the run whose file it must be, if the file says.

    Raises:
        UserError: the file is missing, cannot be read, or is not what was written.
    """
    try:
        text = file.read_bytes().decode("utf8")
    except FileNotFoundError as error:
        raise UserError(f"'{file}' is missing: put it back") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"'{file}' cannot be read ({error}): put it back") from error

    found = _SIGNED.fullmatch(text)
    if found is None and (signed or _LINE in text):
        raise UserError(f"'{file}' has changed since the run was recorded: put it back")
    if found is not None and _checksum(found[1]) != found[2]:
        raise UserError(f"'{file}' has changed since the run was recorded: put it back")

    of_run = re.search(rf"^{_RUN}([0-9a-f]+)$", text, re.MULTILINE)
    if run_id and of_run is not None and of_run[1] != run_id:
        raise UserError(f"'{file}' is not as it was written (it is of another run): put it back")

    try:
        return with_present_keys(parse_toml(text))
    except TomlError as error:
        raise UserError(f"'{file}' cannot be read ({error}): put it back") from error


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode("utf8")).hexdigest()
