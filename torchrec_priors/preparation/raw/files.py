"""Identifies raw files by checksums, which are computed once, while the engine works.

If a manifest or a journal has recorded the same size and modification time for a file, the file is
assumed to be unchanged and is not read again.
"""

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from torchrec_priors.common.checksums import sha256
from torchrec_priors.errors import UserError
from torchrec_priors.preparation.engine.journal import Journal

# Maps the path of a file in the raw folder to its size in bytes and modification time in ns.
Seen = dict[str, list[int]]


def seen(raw: Path, ours: Iterable[Path]) -> Seen:
    """Returns all files of the raw folder, except those in the folders `ours`.

    The folders `ours` belong to the output, which may be inside the raw folder.
    """
    raw = raw.absolute()
    ours = set(ours)
    files_seen: Seen = {}
    for folder, folders, files in os.walk(raw):
        # `os.walk` enters only the folders that stay in this list, so it is changed in place.
        folders[:] = sorted(name for name in folders if Path(folder, name) not in ours)
        for name in files:
            status = Path(folder, name).stat()
            path = str(Path(folder, name).relative_to(raw))
            files_seen[path] = [status.st_size, status.st_mtime_ns]

    # The files are sorted, because their order depends on the file system.
    return dict(sorted(files_seen.items(), key=lambda entry: Path(entry[0])))


def checksums(
    raw: Path, now: Seen, known: Mapping[str, str], then: Mapping[str, list[int]]
) -> dict[str, str]:
    """Returns the SHA-256 of every file. Only files that may have changed are read.

    Args:
        raw: the raw folder.
        now: the current sizes and modification times of the files.
        known: the checksums of files at an earlier time.
        then: the sizes and modification times at that time.
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
    """Computes the checksums of raw files in the background and records them in the journal."""

    def __init__(self, raw: Path, files: Seen, journal: Journal) -> None:
        self.raw = raw
        self.files = files
        self.journal = journal
        # There is only one thread, because the engine needs the other cores.
        self._pool = ThreadPoolExecutor(1)
        self._futures = {path: self._pool.submit(self._checksum, path) for path in files}

    def result(self) -> dict[str, str]:
        """Waits for all checksums and returns them.

        Raises:
            UserError: a file was changed after the preparation began.
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
