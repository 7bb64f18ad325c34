"""Which stages of a preparation are finished, so that the same command goes on after a kill at any moment."""

import hashlib
import json
import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torchrec_priors.files import append_to, write_whole


class Journal:
    """A file of one JSON line a finished stage; a line that a kill has cut counts for nothing.

    A stage is finished if its line is there, was written for the same `key`, and its files still have the sizes that
    the line tells.
    """

    def __init__(self, file: Path) -> None:
        self.file, self.folder = file, file.parent
        self._lines: dict[str, dict[str, Any]] = {}
        self._writing = threading.Lock()
        if file.is_file():
            text = file.read_text(encoding="utf8")
            for line in text[: text.rfind("\n") + 1].splitlines():
                entry = json.loads(line)
                self._lines[entry["stage"]] = entry
            if not text.endswith("\n"):
                write_whole(file, text[: text.rfind("\n") + 1])

    def finished(self, stage: str, key: str = "") -> Mapping[str, Any] | None:
        """What the stage noted when it was finished; None where it was not, for this key, or its files are gone."""
        entry = self._lines.get(stage)
        if entry is None or entry["key"] != key:
            return None
        sizes = entry["files"]
        there = all((self.folder / path).is_file() for path in sizes)
        if not there or any((self.folder / path).stat().st_size != size for path, size in sizes.items()):
            return None
        noted: dict[str, Any] = entry["noted"]
        return noted

    def finish(
        self, stage: str, key: str = "", noted: Mapping[str, Any] | None = None, files: Iterable[Path] = ()
    ) -> None:
        """Writes down that a stage is finished, after `files` (of the journal's folder) are whole."""
        sizes = {str(file.relative_to(self.folder)): file.stat().st_size for file in files}
        entry = {"stage": stage, "key": key, "noted": dict(noted or {}), "files": sizes}
        with self._writing, append_to(self.file) as lines:
            lines.write(json.dumps(entry) + "\n")
            lines.flush()
            os.fsync(lines.fileno())
        self._lines[stage] = entry


def key_of(*parts: object) -> str:
    """A short hash of what decides a stage's result.

    >>> key_of("a", 1) == key_of("a", 1), key_of("a", 1) == key_of("a", 2)
    (True, False)
    """
    return hashlib.sha256(json.dumps([str(part) for part in parts]).encode()).hexdigest()[:16]
