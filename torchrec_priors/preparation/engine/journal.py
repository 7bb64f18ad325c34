"""Records which stages of a preparation are finished.

If the process is killed at any moment, the same command resumes with the first unfinished stage.
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

    A line that is incomplete after a kill, or damaged, is ignored. A stage is finished if its line
    exists and was written for the same `key`, and its files have the recorded sizes. For files that
    another process wrote, the checksums are compared, too.

    Args:
        file: the journal, which need not exist. The files of stages are in the same folder.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.folder = file.parent
        self._lines: dict[str, dict[str, Any]] = {}
        # Paths of files that this process wrote, or compared with their checksums.
        self._known = set[str]()
        self._writing = threading.Lock()

        if file.is_file():
            lines = file.read_bytes().splitlines(keepends=True)
            entries = [entry for entry in map(_entry, lines) if entry is not None]
            self._lines = {entry["stage"]: entry for entry in entries}

            # An incomplete line has no line end, so the next line would be appended to it. The
            # journal is therefore written again without it.
            if len(entries) < len(lines):
                write_whole(file, "".join(_line(entry) for entry in entries))

    def finished(self, stage: str, key: str = "") -> Mapping[str, Any] | None:
        """Returns the values that were recorded when the stage was finished.

        Returns None if the stage is not finished for this key, or if its files are missing or
        damaged.
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
            stage: the name of the stage.
            key: a hash of all values that decide the result of the stage.
            noted: the values that `finished` will return.
            files: the complete files of the stage, which are in the journal's folder.
        """
        recorded = {
            str(file.relative_to(self.folder)): [file.stat().st_size, sha256(file)]
            for file in files
        }
        entry = {"stage": stage, "key": key, "noted": dict(noted or {}), "files": recorded}
        self._known |= recorded.keys()

        # A stage counts as finished only when its line has been written to the disk.
        with self._writing, append_to(self.file) as lines:
            lines.write(_line(entry))
            lines.flush()
            os.fsync(lines.fileno())
        self._lines[stage] = entry

    def _is_whole(self, path: str, size: int, checksum: str) -> bool:
        # The size is compared first, because checksums of large files take time.
        file = self.folder / path
        if not file.is_file() or file.stat().st_size != size:
            return False
        if path not in self._known and sha256(file) != checksum:
            return False
        self._known.add(path)
        return True


def key_of(*parts: object) -> str:
    """Returns a short hash of the values that decide the result of a stage.

    >>> key_of("a", 1) == key_of("a", 1), key_of("a", 1) == key_of("a", 2)
    (True, False)
    """
    return hashlib.sha256(json.dumps([str(part) for part in parts]).encode()).hexdigest()[:16]


def _line(entry: Mapping[str, Any]) -> str:
    """Returns the line for a stage, which begins with a checksum of the rest."""
    text = json.dumps(entry)
    return f"{hashlib.sha256(text.encode()).hexdigest()} {text}\n"


def _entry(line: bytes) -> dict[str, Any] | None:
    """Returns the entry in a line that `_line` made, or None if the line is damaged."""
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    if not line.endswith(b"\n") or checksum.decode("latin1") != hashlib.sha256(text).hexdigest():
        return None
    entry: dict[str, Any] = json.loads(text)
    return entry
