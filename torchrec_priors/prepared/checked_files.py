"""Reads the files of a prepared data set and checks that they have not changed since `prepare`.

A small file is compared with the manifest as a whole, once. A large file is read in parts: the
footer is compared with the manifest, and each part is compared with the footer whenever the part
is read. If the local copy of a file from a store is damaged, the file is fetched again.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from torchrec_priors.common.checksums import sha256
from torchrec_priors.common.system_errors import blame_the_system
from torchrec_priors.errors import UserError
from torchrec_priors.parquet import (
    DamagedParquetError,
    Footer,
    ParquetReader,
    read_footer,
    read_schema,
    read_table,
)
from torchrec_priors.prepared.opening import open_files
from torchrec_priors.remote.uri import Place

T = TypeVar("T")


class CheckedFiles:
    """The files of one data set. Several threads may read at the same time.

    Attributes:
        manifest: the manifest as it was when the data set was opened.
        scratch: a local folder for temporary files.

    Raises:
        UserError: from every call, if a file is missing, damaged, or not a Parquet file.
    """

    def __init__(self, folder: Place) -> None:
        self._folder = folder
        self._files = open_files(folder)
        self.manifest = self._files.manifest
        self.scratch = self._files.scratch
        self._infos = {info.path: info for info in self.manifest.files}
        # The names of the files that have been compared with the manifest as a whole.
        self._compared: set[str] = set()

    def path(self, name: str) -> Path:
        """Returns the local path of a file, after comparing the whole file with the manifest."""
        return self._compared_with_manifest(name, lambda file: file)

    def schema(self, name: str) -> pa.Schema:
        """Returns the columns of a small file."""
        return self._compared_with_manifest(name, read_schema)

    def table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Returns the content of a small file."""
        return self._compared_with_manifest(name, lambda file: read_table(file, columns))

    def footers(self, names: Sequence[str]) -> list[tuple[Path, Footer]]:
        """Returns the local paths of large files, and their footers."""
        footers = []
        for name, file in zip(names, self._files.paths(names), strict=True):
            read = partial(read_footer, file, self._infos[name].footer_sha256)
            footers.append((file, self._read(name, file, read)))
        return footers

    def row_group(
        self, name: str, file: Path, footer: Footer, number: int, columns: Sequence[str]
    ) -> pa.Table:
        """Returns a row group of a large file."""

        def read() -> pa.Table:
            # The threads of the caller already decode several row groups at the same time, so
            # Arrow must not start more threads.
            with ParquetReader(file, footer) as opened:
                return opened.read_row_group(number, columns, use_threads=False)

        return self._read(name, file, read)

    def _compared_with_manifest(self, name: str, read: Callable[[Path], T]) -> T:
        """Calls `read` with the path of a file that matches the manifest; returns its result."""

        def compare_and_read() -> T:
            (file,) = self._files.paths([name])
            if name not in self._compared:
                if name not in self._infos:
                    raise DamagedParquetError("the manifest does not list it")
                if sha256(file) != self._infos[name].sha256:
                    raise DamagedParquetError("it does not match its checksum")
                self._compared.add(name)
            return read(file)

        return self._read(name, self._folder / name, compare_and_read)

    def _read(self, name: str, file: Place, read: Callable[[], T]) -> T:
        """Calls `read`, and calls it again if it failed on a damaged copy from a store."""
        try:
            return read()
        except (pa.ArrowException, OSError) as error:
            blame_the_system(error, f"'{file}'")
            failure = error

        # The copy on this machine may have been damaged, so a new copy is tried once.
        if self._files.renew(name):
            try:
                return read()
            except (pa.ArrowException, OSError) as error:
                failure = error

        # After the first line, messages of Arrow may list a stack of C++ functions.
        reason = str(failure).splitlines()[0]
        raise UserError(
            f"{file} cannot be read ({reason}): prepare the data set again"
        ) from failure
