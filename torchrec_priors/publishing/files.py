"""Copies files so that they are on the disk, and hashes them meanwhile."""

import hashlib
import os
from pathlib import Path

from torchrec_priors.common.checksums import sha256
from torchrec_priors.common.files import sync_folder
from torchrec_priors.training.checkpoint.manifest import Checksum

_BLOCK = 1 << 22  # bytes that are copied at once


def copy_file(source: Path, target: Path) -> Checksum:
    """Copies a file onto the disk; returns its length and checksum.

    Args:
        source: the file. For a link, its target is copied.
        target: the new file, which must not exist.

    Raises:
        FileNotFoundError: the source does not exist.
        OSError: the source cannot be read, or the target cannot be written.
    """
    digest = hashlib.sha256()
    length = 0
    with source.open("rb") as reading, target.open("xb") as writing:
        while block := reading.read(_BLOCK):
            digest.update(block)
            length += len(block)
            writing.write(block)
        writing.flush()
        os.fsync(writing.fileno())
    return Checksum(length, digest.hexdigest())


def checksum_of(file: Path) -> Checksum:
    """Returns the length and checksum of a file."""
    return Checksum(file.stat().st_size, sha256(file))


def sync_folders(root: Path) -> None:
    """Writes the names in a folder, and in all folders in it, to the disk."""
    for folder in (*root.rglob("*"), root):
        if folder.is_dir():
            sync_folder(folder)
