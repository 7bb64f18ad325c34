"""Decides which custom code files of users (`mine.py`: priors, backbones, baseline models) may run.

A command line names its own files, and they run. A run or an export only remembers the files it was
built with, and may have come from anywhere. Its files run if their content is the recorded one and
this user has named the same content in a training before, or says so now. What was named is kept as
empty files, called by the SHA-256 of the content, in a folder of the user's configuration that
nobody else may write.
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

# The folder of contents that this user has named.
_NAMED = "trusted"
# The folder of a run or an export has one of them next to `config.toml`.
_RECORDS = ("data.json", "export.json")

# Maps an absolute path to the checksum of the only content that may run of it in this process.
_expected: dict[Path, str] = {}


def remember(files: Iterable[Path]) -> None:
    """Records that this user has named these files.

    If that fails, it is logged: later commands need `--trust`.
    """
    for file in files:
        # Files of a command line run as they are.
        _expected.pop(file.absolute(), None)

        # Loading it will report that it is missing.
        if not file.is_file():
            continue

        try:
            _keep(sha256(file))
        except (OSError, RuntimeError) as error:
            # RuntimeError: the user has no home.
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
    """Allows these files to run in this process, with the content that they have now and no other.

    Args:
        files: the files that a run or an export names.
        recorded: their checksums, as it recorded them.
        place: its folder.
        trust: whether the user gave `--trust`.
        made: how it was created, for messages.

    Raises:
        UserError: a file is not recorded, is missing or has changed, or the user does not know it.
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

        # Even unchanged, it is code that this user may never have read.
        if not trust and not _is_known(checksum):
            raise UserError(
                f"'{place}' would run '{file}' (sha256 {checksum}), "
                "which you have not trained with here: read it, then give --trust"
            )
        _expected[file.absolute()] = checksum


def check_given(config: Path, files: Iterable[Path], *, trust: bool) -> None:
    """Checks the files of a given configuration that is in the folder of a run or an export.

    Such a configuration came with the folder, so the user did not choose its files.

    Args:
        files: the files that it names.

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
    """Raises UserError if `check_trusted` allowed another content of the file to run."""
    expected = _expected.get(file.absolute())
    if expected is not None and hashlib.sha256(content).hexdigest() != expected:
        raise UserError(f"'{file}' was changed while it was opened: run this again")


def _keep(checksum: str) -> None:
    """Records that this user has named a content."""
    folder = config_folder() / _NAMED
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not is_private(folder):
        raise PermissionError(f"'{folder}' is another user's, or others may write there")

    with suppress(FileExistsError):
        os.close(
            os.open(folder / checksum, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        )


def _is_known(checksum: str) -> bool:
    """Whether this user has named the content before."""
    try:
        folder = config_folder() / _NAMED
        return is_private(folder) and is_private(folder / checksum)
    except (OSError, RuntimeError):
        return False
