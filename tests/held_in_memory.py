"""A handler of iopath whose files are in memory: held://shop/data/manifest.json.

Importing this module registers it, as a module that TORCHREC_PRIORS_IMPORT names does. In a new process the memory
holds the files of the folder that HELD_FOLDER names.
"""

import io
import os
from pathlib import Path

from iopath.common.file_io import PathHandler, g_pathmgr

PREFIX = "held://"


class Held(PathHandler):
    """Files by URI. `opened` lists the URIs that were opened to read."""

    def __init__(self):
        super().__init__()
        self.files = {}
        self.opened = []

    def _get_supported_prefixes(self):
        return [PREFIX]

    def _open(self, path, mode="r", buffering=-1, **options):
        if "w" in mode:
            return _Written(self.files, path)
        self.opened.append(path)
        return io.BytesIO(self.files[path])

    def _exists(self, path, **options):
        return self._isfile(path) or self._isdir(path)

    def _isfile(self, path, **options):
        return path in self.files

    def _isdir(self, path, **options):
        return any(file.startswith(f"{path}/") for file in self.files)

    def _ls(self, path, **options):
        parts = [
            file.removeprefix(f"{path}/") for file in self.files if file.startswith(f"{path}/")
        ]
        return sorted({part.partition("/")[0] for part in parts})

    def _mkdirs(self, path, **options):
        pass  # folders are there with their files

    def _rm(self, path, **options):
        del self.files[path]


class _Written(io.BytesIO):
    """A file that is there when it is closed."""

    def __init__(self, files, path):
        super().__init__()
        self._files, self._path = files, path

    def close(self):
        if not self.closed:
            self._files[self._path] = self.getvalue()
        super().close()


def fill(folder, uri):
    """Copies a local folder into the memory."""
    for file in sorted(Path(folder).rglob("*")):
        if file.is_file():
            HELD.files[f"{uri}/{file.relative_to(folder)}"] = file.read_bytes()


HELD = Held()
g_pathmgr.register_handler(HELD)
if "HELD_FOLDER" in os.environ:
    fill(os.environ["HELD_FOLDER"], "held://shop")
