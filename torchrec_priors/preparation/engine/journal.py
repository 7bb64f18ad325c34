"""Which stages of a preparation are finished, so that the same command goes on after a kill at any moment."""

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
    """A file of one JSON line a finished stage; a line that a kill has cut, or that is damaged, counts for nothing.

    A stage is finished if its line is there, was written for the same `key`, and its files still are what the line
    tells: sizes, and checksums of what another process wrote.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.folder = file.parent
        self._lines: dict[str, dict[str, Any]] = {}
        self._known = set[str]()  # files that this process wrote or compared
        self._writing = threading.Lock()
        if file.is_file():
            lines = file.read_bytes().splitlines(keepends=True)
            entries = [entry for line in lines if (entry := _entry(line)) is not None]
            self._lines = {entry["stage"]: entry for entry in entries}
            if len(entries) < len(lines):
                write_whole(file, "".join(_line(entry) for entry in entries))

    def finished(self, stage: str, key: str = "") -> Mapping[str, Any] | None:
        """What the stage noted when it was finished; None where it was not, for this key, or its files are gone."""
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
        """Writes down that a stage is finished, after `files` (of the journal's folder) are whole."""
        recorded = {
            str(file.relative_to(self.folder)): [file.stat().st_size, sha256(file)]
            for file in files
        }
        entry = {"stage": stage, "key": key, "noted": dict(noted or {}), "files": recorded}
        self._known |= recorded.keys()
        with self._writing, append_to(self.file) as lines:
            lines.write(_line(entry))
            lines.flush()
            os.fsync(lines.fileno())
        self._lines[stage] = entry

    def _is_whole(self, path: str, size: int, checksum: str) -> bool:
        file = self.folder / path
        if not file.is_file() or file.stat().st_size != size:
            return False
        if path not in self._known and sha256(file) != checksum:
            return False
        self._known.add(path)
        return True


def _line(entry: Mapping[str, Any]) -> str:
    """Of a stage, with a checksum of its own."""
    text = json.dumps(entry)
    return f"{hashlib.sha256(text.encode()).hexdigest()} {text}\n"


def _entry(line: bytes) -> dict[str, Any] | None:
    """What `_line` made a line of; None of anything else."""
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    if not line.endswith(b"\n") or checksum.decode("latin1") != hashlib.sha256(text).hexdigest():
        return None
    entry: dict[str, Any] = json.loads(text)
    return entry


def key_of(*parts: object) -> str:
    """A short hash of what decides a stage's result.

    >>> key_of("a", 1) == key_of("a", 1), key_of("a", 1) == key_of("a", 2)
    (True, False)
    """
    return hashlib.sha256(json.dumps([str(part) for part in parts]).encode()).hexdigest()[:16]
