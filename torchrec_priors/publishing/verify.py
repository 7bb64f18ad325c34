"""Checks that every byte of a published version is as it was written."""

import stat
from pathlib import Path

from torchrec_priors.common.checksums import sha256
from torchrec_priors.errors import UserError
from torchrec_priors.publishing.version import REMEDY, Manifest, read_manifest
from torchrec_priors.training.checkpoint.manifest import Checksum


def verify(folder: Path) -> Manifest:
    """Reads all files of a version, and compares them with its manifest; returns the manifest.

    Args:
        folder: the folder of the version. Its name is the name of the version.

    Raises:
        UserError: a file is missing or has changed, or the folder holds another version.
        OSError: a file cannot be read.
    """
    manifest = read_manifest(folder)
    if manifest.name != folder.name:
        raise UserError(
            f"'{folder}' holds version '{manifest.name}': give the folder the name of the version"
        )
    for path, checksum in manifest.files.items():
        flaw = _flaw(folder / path, checksum)
        if flaw:
            raise UserError(f"version '{manifest.name}' is damaged: '{path}' {flaw}: {REMEDY}")
    return manifest


def _flaw(file: Path, checksum: Checksum) -> str | None:
    """Describes what is wrong with a file; None if it is as it was written."""
    try:
        status = file.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return "is missing"
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file"

    # The length is compared first, as this is fast.
    if status.st_size != checksum.bytes:
        return f"has {status.st_size:,} bytes instead of {checksum.bytes:,}"
    if sha256(file) != checksum.sha256:
        return "does not match its checksum"
    return None
