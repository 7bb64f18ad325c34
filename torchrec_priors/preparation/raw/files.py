"""The identity of the raw files: checksums of their content, computed once, while the engine works.

A file whose size and modification time a manifest or a journal has recorded is taken for the same
without reading it again, as `rsync` and `make` do.
"""

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from torchrec_priors.common.checksums import sha256
from torchrec_priors.errors import UserError
from torchrec_priors.preparation.engine.journal import Journal

# Path in the raw folder -> size in bytes, modification time in ns.
Seen = dict[str, list[int]]


def seen(raw: Path, ours: Iterable[Path]) -> Seen:
    """All files of the raw folder, except those in the folders `ours`.

    The output may be inside the raw folder.
    """
    raw = raw.absolute()
    ours = set(ours)
    files_seen: Seen = {}
    for folder, folders, files in os.walk(raw):
        # Changed in place, which is how `os.walk` learns which folders to enter.
        folders[:] = sorted(name for name in folders if Path(folder, name) not in ours)
        for name in files:
            status = Path(folder, name).stat()
            path = str(Path(folder, name).relative_to(raw))
            files_seen[path] = [status.st_size, status.st_mtime_ns]

    # In an order that does not depend on the file system.
    return dict(sorted(files_seen.items(), key=lambda entry: Path(entry[0])))


def checksums(
    raw: Path, now: Seen, known: Mapping[str, str], then: Mapping[str, list[int]]
) -> dict[str, str]:
    """sha256 of every file.

    Args:
        now: the files as they are.
        known: checksums of files as they were `then`; they are taken for files that have not
            changed since.
    """
    with ThreadPoolExecutor() as pool:
        checksum_of: dict[str, str | Future[str]] = {}
        for path, status in now.items():
            if path in known and then.get(path) == status:
                checksum_of[path] = known[path]
            else:
                checksum_of[path] = pool.submit(sha256, raw / path)

        return {
            path: value.result() if isinstance(value, Future) else value
            for path, value in checksum_of.items()
        }


class Checksums:
    """Computes the checksums of raw files in the background; finished ones are in the journal."""

    def __init__(self, raw: Path, files: Seen, journal: Journal) -> None:
        self.raw = raw
        self.files = files
        self.journal = journal
        # One thread: the engine needs the other cores.
        self._pool = ThreadPoolExecutor(1)
        self._futures = {path: self._pool.submit(self._checksum, path) for path in files}

    def result(self) -> dict[str, str]:
        """Waits for all checksums.

        Raises:
            UserError: a file was changed since preparing began.
        """
        checksum_of = {path: future.result() for path, future in self._futures.items()}
        for path, (size, time) in self.files.items():
            status = (self.raw / path).stat()
            if (status.st_size, status.st_mtime_ns) != (size, time):
                raise UserError(
                    f"--raw: '{self.raw / path}' was changed while it was read: run this again"
                )
        return checksum_of

    def stop(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _checksum(self, path: str) -> str:
        stage = f"sha256 {path}"
        key = str(self.files[path])
        noted = self.journal.finished(stage, key)
        if noted is None:
            noted = {"sha256": sha256(self.raw / path)}
            self.journal.finish(stage, key, noted)
        return str(noted["sha256"])
