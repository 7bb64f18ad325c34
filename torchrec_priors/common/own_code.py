"""Which files of people's own code (`mine.py`: priors, backbones, rivals) may run.

A command line names its own files, and they run. A run or an export only remembers what it was made with, and may have
come from anywhere: its files run where their content is the recorded one and this user has named the same content in a
training before, or says so now. What was named is kept as empty files, called by the SHA-256 of the content, in a
folder of the user's configuration that nobody else may write.
"""

import hashlib
import logging
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from torchrec_priors.common.files import parse_json
from torchrec_priors.common.user_folders import config_folder, is_private
from torchrec_priors.errors import UserError

log = logging.getLogger(__name__)

_NAMED = "trusted"
_RECORDS = (
    "data.json",
    "export.json",
)  # what a run's and an export's folder have beside `config.toml`

_expected: dict[
    Path, str
] = {}  # absolute path -> checksum of what alone may run of it in this process


def remember(files: Iterable[Path]) -> None:
    """This user has named these files. Where that cannot be kept, it is logged: later commands ask for `--trust`."""
    for file in files:
        _expected.pop(file.absolute(), None)
        if not file.is_file():
            continue  # which whoever loads it says
        try:
            _keep(hashlib.sha256(file.read_bytes()).hexdigest())
        except (OSError, RuntimeError) as error:  # a user may have no home
            log.info(
                "that you use '%s' cannot be noted (%s): commands on this run will need --trust",
                file,
                error,
            )


def check_trusted(
    files: Iterable[Path],
    recorded: Mapping[str, str],
    place: Path,
    *,
    trust: bool,
    made: str = "trained",
) -> None:
    """From here on these files run as they are now in this process, and only so.

    Args:
        files: named by a run or an export.
        recorded: their checksums, as it recorded them.
        place: its folder.
        trust: whether the user said `--trust`.
        made: how, for messages.

    Raises:
        UserError: one is not recorded, is missing or has changed, or the user does not know it.
    """
    for file in files:
        checksum = recorded.get(str(file))
        if checksum is None:
            raise UserError(
                f"'{place}' names '{file}', of which it recorded no checksum: it is not run, even with --trust"
            )
        if not file.is_file():
            raise UserError(f"'{place}' was {made} with '{file}', which is not there: put it back")
        if hashlib.sha256(file.read_bytes()).hexdigest() != checksum:
            raise UserError(
                f"'{file}' has changed since '{place}' was {made}: put it back or train again"
            )
        if not trust and not _is_known(checksum):
            raise UserError(
                f"'{place}' would run '{file}' (sha256 {checksum}), which you have not trained with here: "
                "read it, then give --trust"
            )
        _expected[file.absolute()] = checksum


def check_given(config: Path, files: Iterable[Path], *, trust: bool) -> None:
    """A configuration that is given, but lies in the folder of a run or an export, has come with it.

    Args:
        files: that it names.

    Raises:
        UserError: as `check_trusted`.
    """
    for name in _RECORDS:
        record = config.parent / name
        if record.is_file():
            recorded = parse_json(
                record.read_bytes(), str(record), remedy="give another --config"
            ).get("own_files")
            check_trusted(
                files, recorded if isinstance(recorded, dict) else {}, config.parent, trust=trust
            )


def require_expected(file: Path, content: bytes) -> None:
    """Raises UserError where `check_trusted` let another content of the file run."""
    expected = _expected.get(file.absolute())
    if expected is not None and hashlib.sha256(content).hexdigest() != expected:
        raise UserError(f"'{file}' was changed while it was opened: run this again")


def _keep(checksum: str) -> None:
    folder = config_folder() / _NAMED
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not is_private(folder):
        raise PermissionError(f"'{folder}' is another user's, or others may write there")
    with suppress(FileExistsError):
        os.close(
            os.open(folder / checksum, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        )


def _is_known(checksum: str) -> bool:
    try:
        folder = config_folder() / _NAMED
        return is_private(folder) and is_private(folder / checksum)
    except (OSError, RuntimeError):
        return False
