"""Reading the files of a prepared data set as they were written, or not at all.

A small file is compared with the manifest as a whole, once. Of a large one, which is read in parts, the footer is, and
the parts are compared with what the footer says whenever they are read. Copies of files in stores that turn out to be
damaged are fetched again.
"""

from collections.abc import Callable, Sequence
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
    """Of one data set. Threads may read at the same time.

    Attributes:
        manifest: as it was when the data set was opened.
        scratch: a local folder on whose disk there may be temporary files.

    Raises:
        UserError: from every call, a file that is missing, damaged, or no Parquet file.
    """

    def __init__(self, folder: Place) -> None:
        self._folder = folder
        self._files = open_files(folder)
        self.manifest = self._files.manifest
        self.scratch = self._files.scratch
        self._infos = {info.path: info for info in self.manifest.files}
        self._compared: set[str] = set()

    def path(self, name: str) -> Path:
        """Where a file is on this machine, after all of it was compared with the manifest."""
        return self._compared_with_manifest(name, lambda file: file)

    def schema(self, name: str) -> pa.Schema:
        """The columns of a small file."""
        return self._compared_with_manifest(name, read_schema)

    def table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A small file."""
        return self._compared_with_manifest(name, lambda file: read_table(file, columns))

    def footers(self, names: Sequence[str]) -> list[tuple[Path, Footer]]:
        """Where large files are on this machine, and their footers."""
        return [
            (file, self._read(name, file, lambda name=name, file=file: self._footer(name, file)))  # type: ignore[misc]
            for name, file in zip(names, self._files.paths(names), strict=True)
        ]

    def row_group(
        self, name: str, file: Path, footer: Footer, number: int, columns: Sequence[str]
    ) -> pa.Table:
        """A row group of a large file."""

        def read() -> pa.Table:
            with ParquetReader(file, footer) as opened:
                return opened.read_row_group(number, columns, use_threads=False)

        return self._read(name, file, read)

    def _footer(self, name: str, file: Path) -> Footer:
        return read_footer(file, self._infos[name].footer_sha256)

    def _compared_with_manifest(self, name: str, read: Callable[[Path], T]) -> T:
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
        """`read()`, tried again where the file may have been a damaged copy."""
        try:
            return read()
        except (pa.ArrowException, OSError) as error:
            blame_the_system(error, f"'{file}'")
            failure = error
        if self._files.renew(name):
            try:
                return read()
            except (pa.ArrowException, OSError) as error:
                failure = error
        reason = str(failure).splitlines()[0]
        raise UserError(
            f"{file} cannot be read ({reason}): prepare the data set again"
        ) from failure
