"""What identifies the raw files: their content's checksums, read once, beside the engine's work.

A file of the size and the time of change that a manifest or a journal has seen is taken for the same without reading
it again, as `rsync` and `make` do.
"""

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from torchrec_priors.common.checksums import sha256
from torchrec_priors.errors import UserError
from torchrec_priors.preparation.engine.journal import Journal

Seen = dict[str, list[int]]  # path in the raw folder -> bytes, time of change (ns)


def seen(raw: Path, ours: Iterable[Path]) -> Seen:
    """All files of the raw folder, but for those in the folders of `ours`: the output may lie among the raw files."""
    raw = raw.absolute()
    ours = set(ours)
    found: Seen = {}
    for folder, folders, files in os.walk(raw):
        folders[:] = sorted(name for name in folders if Path(folder, name) not in ours)
        for name in files:
            status = Path(folder, name).stat()
            found[str(Path(folder, name).relative_to(raw))] = [status.st_size, status.st_mtime_ns]
    return dict(sorted(found.items(), key=lambda entry: Path(entry[0])))


def checksums(
    raw: Path, now: Seen, known: Mapping[str, str], then: Mapping[str, list[int]]
) -> dict[str, str]:
    """sha256 of every file; those that are as they were `then` have the one that is `known`."""
    with ThreadPoolExecutor() as pool:
        found = {
            path: known[path]
            if path in known and then.get(path) == status
            else pool.submit(sha256, raw / path)
            for path, status in now.items()
        }
        return {
            path: value.result() if isinstance(value, Future) else value
            for path, value in found.items()
        }


class Checksums:
    """Computes the checksums of raw files in the background; a file that is finished stands in the journal."""

    def __init__(self, raw: Path, files: Seen, journal: Journal) -> None:
        self.raw = raw
        self.files = files
        self.journal = journal
        self._pool = ThreadPoolExecutor(1)
        self._found = {path: self._pool.submit(self._checksum, path) for path in files}

    def result(self) -> dict[str, str]:
        """Waits for all.

        Raises:
            UserError: a file was changed since preparing began.
        """
        found = {path: future.result() for path, future in self._found.items()}
        for path, (size, time) in self.files.items():
            status = (self.raw / path).stat()
            if (status.st_size, status.st_mtime_ns) != (size, time):
                raise UserError(
                    f"--raw: '{self.raw / path}' was changed while it was read: run this again"
                )
        return found

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
