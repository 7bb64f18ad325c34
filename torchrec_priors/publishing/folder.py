"""The folder of published models.

versions/NAME/            a complete version, which never changes (`version.py`)
versions/.NAME.partial/   a version that is being written or removed, or what a killed process left
current.json              the name of the version that services load (`current.py`)
.publishing.lock          held by the process that publishes
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from torchrec_priors.common.files import check_no_link, partial_of, remove_leftover, sync_folder
from torchrec_priors.common.lock_file import lock_file
from torchrec_priors.errors import UserError
from torchrec_priors.publishing.version import check_version, read_manifest
from torchrec_priors.training.run.folder import CONFIG

_VERSIONS = "versions"
_LOCK = ".publishing.lock"


@dataclass(frozen=True)
class PublishedFolder:
    """The paths in a folder of published models.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def versions(self) -> Path:
        return self.path / _VERSIONS

    def version(self, name: str) -> Path:
        """Returns the folder of a version, whether it exists or not.

        Raises:
            UserError: a version cannot have this name.
        """
        return self.versions / check_version(name)

    def newest_first(self) -> list[str]:
        """Returns the names of the complete versions, the newest first.

        A version whose manifest cannot be read counts as the oldest.
        """
        if not self.versions.is_dir():
            return []
        names = [path.name for path in self.versions.iterdir() if _is_version(path)]
        return sorted(names, key=lambda name: (self._created(name), name), reverse=True)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Reserves the folder for this process, and removes what a killed process has left.

        Raises:
            UserError: another process publishes, or the folder is a file or a run.
        """
        if (self.path / CONFIG).exists():
            raise UserError(f"--to: '{self.path}' holds a run: name a folder for published models")
        self.versions.mkdir(parents=True, exist_ok=True)
        check_no_link(self.versions, self.path)

        lock = lock_file(self.path / _LOCK, wait=False)
        if lock is None:
            raise UserError(f"--to: another process publishes to '{self.path}': wait until it ends")
        try:
            for leftover in self.versions.glob(".*.partial"):
                remove_leftover(leftover)
            yield
        finally:
            # The file is removed while the lock is held, as `lock_file` expects.
            with suppress(OSError):
                (self.path / _LOCK).unlink()
            os.close(lock)

    def complete(self, name: str) -> None:
        """Gives a written version its name. All its files are on the disk."""
        partial_of(self.version(name)).rename(self.version(name))
        sync_folder(self.versions)

    def remove(self, name: str) -> None:
        """Removes a version."""
        # It is renamed first, so that no service sees a part of it.
        partial = partial_of(self.version(name))
        self.version(name).rename(partial)
        remove_leftover(partial)

    def _created(self, name: str) -> str:
        try:
            return read_manifest(self.version(name)).created
        except (UserError, OSError):
            return ""


def _is_version(path: Path) -> bool:
    """Returns whether a path in the folder of versions has the name of a complete version."""
    try:
        check_version(path.name)
    except UserError:
        return False
    return path.is_dir()
