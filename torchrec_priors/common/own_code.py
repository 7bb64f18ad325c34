"""Decides which Python files of users may run: priors, backbones and baseline models (`mine.py`).

A file that the command line names always runs. A run or an export also names files: those it was
built with. But it may have come from anybody, and running its files could do harm. So such a file
runs only under two conditions:

1. Its content has the checksum that the run or export recorded.
2. This user has trained with a file of the same content before, or gives `--trust`.

For the second condition, training records the SHA-256 of each file's content. This becomes the name
of an empty file in a folder of the user's configuration, to which nobody else may be able to write.
"""

import hashlib
import logging
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from torchrec_priors.common.checksums import sha256
from torchrec_priors.common.files import parse_json
from torchrec_priors.common.user_folders import config_folder, is_private
from torchrec_priors.errors import UserError

log = logging.getLogger(__name__)

# The name of the folder with the checksums of the files that this user has trained with.
_NAMED = "trusted"
# The folder of a run or an export has one of these files next to `config.toml`.
_RECORDS = ("data.json", "export.json")

# For files that were checked, by absolute path: the checksum of the content that may run.
_expected: dict[Path, str] = {}


def remember(files: Iterable[Path]) -> None:
    """Records that this user trains with these files.

    If they cannot be recorded, this is logged, and later commands need `--trust`.
    """
    for file in files:
        # The user names these files now, so they may run with any content.
        _expected.pop(file.absolute(), None)

        # If the file is missing, loading it will raise the error.
        if not file.is_file():
            continue

        try:
            _keep(sha256(file))
        except (OSError, RuntimeError) as error:
            # A RuntimeError means that the user has no home folder.
            log.info(
                "cannot record that you use '%s' (%s): commands on this run will need --trust",
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
    """Allows the files of a run or an export to run here, under the two conditions above.

    They may run only with their present content.

    Args:
        files: the files that the run or export names.
        recorded: the checksums that the run or export recorded, by file.
        place: the folder of the run or export.
        trust: whether the user gave `--trust`.
        made: how the run or export was created, for messages.

    Raises:
        UserError: a file has no recorded checksum, is missing, has changed, or is not trusted.
    """
    for file in files:
        checksum = recorded.get(str(file))
        if checksum is None:
            raise UserError(
                f"'{place}' names '{file}', of which it recorded no checksum: "
                "it is not run, even with --trust"
            )

        if not file.is_file():
            raise UserError(f"'{place}' was {made} with '{file}', which is missing: put it back")
        if sha256(file) != checksum:
            raise UserError(
                f"'{file}' has changed since '{place}' was {made}: put it back or train again"
            )

        # Even if the file is unchanged, this user may never have read it.
        if not trust and not _is_known(checksum):
            raise UserError(
                f"'{place}' would run '{file}' (sha256 {checksum}), "
                "which you have not trained with here: read it, then give --trust"
            )
        _expected[file.absolute()] = checksum


def check_given(config: Path, files: Iterable[Path], *, trust: bool) -> None:
    """Checks the files that a configuration names, if it is in the folder of a run or an export.

    Like the folder, such a configuration may have come from somebody else. So its files must be
    trusted, even though the user has named the configuration.

    Args:
        config: the file of the configuration.
        files: the files that the configuration names.
        trust: whether the user gave `--trust`.

    Raises:
        UserError: as for `check_trusted`.
    """
    for name in _RECORDS:
        record = config.parent / name
        if record.is_file():
            values = parse_json(record.read_bytes(), str(record), remedy="give another --config")
            recorded = values.get("own_files")
            if not isinstance(recorded, dict):
                recorded = {}
            check_trusted(files, recorded, config.parent, trust=trust)


def require_expected(file: Path, content: bytes) -> None:
    """Raises UserError if `check_trusted` has allowed the file to run only with other content."""
    expected = _expected.get(file.absolute())
    if expected is not None and hashlib.sha256(content).hexdigest() != expected:
        raise UserError(f"'{file}' was changed while it was opened: run this again")


def _keep(checksum: str) -> None:
    """Records the checksum of a file that this user trains with."""
    folder = config_folder() / _NAMED
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not is_private(folder):
        raise PermissionError(f"'{folder}' is another user's, or others may write there")

    with suppress(FileExistsError):
        os.close(
            os.open(folder / checksum, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        )


def _is_known(checksum: str) -> bool:
    """Returns whether this user has trained with a file with this checksum before."""
    try:
        folder = config_folder() / _NAMED
        return is_private(folder) and is_private(folder / checksum)
    except (OSError, RuntimeError):
        return False
