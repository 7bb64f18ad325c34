"""Records which stages of a preparation are finished.

After a kill at any moment, the same command resumes with the first stage that is not.
"""

import hashlib
import json
import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torchrec_priors.common.checksums import sha256
from torchrec_priors.common.files import append_to, write_whole


class Journal:
    """A file with one JSON line for each finished stage.

    A line that a kill has cut, or that is damaged, is ignored. A stage is finished if its line
    exists, was written for the same `key`, and its files are still as the line says: in size, and
    in checksum for files that another process wrote.

    Args:
        file: The journal, which need not exist. Files of stages are in its folder.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.folder = file.parent
        self._lines: dict[str, dict[str, Any]] = {}
        self._known = set[str]()  # files that this process wrote or compared
        self._writing = threading.Lock()

        if file.is_file():
            lines = file.read_bytes().splitlines(keepends=True)
            entries = [entry for entry in map(_entry, lines) if entry is not None]
            self._lines = {entry["stage"]: entry for entry in entries}

            # A line that was cut has no end: the next one would be appended to it.
            if len(entries) < len(lines):
                write_whole(file, "".join(_line(entry) for entry in entries))

    def finished(self, stage: str, key: str = "") -> Mapping[str, Any] | None:
        """Returns what the stage noted when it was finished.

        Returns None if it was not finished, not for this key, or if its files are gone.
        """
        entry = self._lines.get(stage)
        if entry is None or entry["key"] != key:
            return None
        if not all(self._is_whole(path, *recorded) for path, recorded in entry["files"].items()):
            return None
        noted: dict[str, Any] = entry["noted"]
        return noted

    def finish(
        self,
        stage: str,
        key: str = "",
        noted: Mapping[str, Any] | None = None,
        files: Iterable[Path] = (),
    ) -> None:
        """Records that a stage is finished.

        Args:
            stage: Name of the stage.
            key: Hash of what decides its result.
            noted: Values that `finished` returns.
            files: Complete files in the journal's folder.
        """
        recorded = {
            str(file.relative_to(self.folder)): [file.stat().st_size, sha256(file)]
            for file in files
        }
        entry = {"stage": stage, "key": key, "noted": dict(noted or {}), "files": recorded}
        self._known |= recorded.keys()

        # A stage counts as finished only when its line is on the disk.
        with self._writing, append_to(self.file) as lines:
            lines.write(_line(entry))
            lines.flush()
            os.fsync(lines.fileno())
        self._lines[stage] = entry

    def _is_whole(self, path: str, size: int, checksum: str) -> bool:
        # The size is compared first: checksums of large files take time.
        file = self.folder / path
        if not file.is_file() or file.stat().st_size != size:
            return False
        if path not in self._known and sha256(file) != checksum:
            return False
        self._known.add(path)
        return True


def key_of(*parts: object) -> str:
    """Returns a short hash of what decides a stage's result.

    >>> key_of("a", 1) == key_of("a", 1), key_of("a", 1) == key_of("a", 2)
    (True, False)
    """
    return hashlib.sha256(json.dumps([str(part) for part in parts]).encode()).hexdigest()[:16]


def _line(entry: Mapping[str, Any]) -> str:
    """Returns the line of a stage, which begins with its checksum."""
    text = json.dumps(entry)
    return f"{hashlib.sha256(text.encode()).hexdigest()} {text}\n"


def _entry(line: bytes) -> dict[str, Any] | None:
    """Returns the entry that `_line` wrote; None for any other line."""
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    if not line.endswith(b"\n") or checksum.decode("latin1") != hashlib.sha256(text).hexdigest():
        return None
    entry: dict[str, Any] = json.loads(text)
    return entry
