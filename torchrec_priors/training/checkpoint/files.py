"""The files of a checkpoint: hashed as they are written, and moved to their place when all are whole and on the disk.

step-N/.metadata, rank-*.distcp   as `torch.distributed.checkpoint` writes them
step-N/checksums.json             sha256 and length of each of them

Until then the folder is `step-N.partial`, which nobody reads.
"""

import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from torch.distributed.checkpoint import FileSystemWriter, Metadata, SavePlan, SavePlanner
from torch.distributed.checkpoint.filesystem import FileSystem
from torch.distributed.checkpoint.metadata import MetadataIndex
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from torchrec_priors.common.files import remove_leftover

MANIFEST = "checksums.json"
DCP_METADATA = ".metadata"
DATA_FILES = (
    "rank-*.distcp"  # checkpoints of earlier versions, which have no checksums, have other names
)


@dataclass(frozen=True)
class Checksum:
    """Of a whole file."""

    bytes: int
    sha256: str


class Writer(FileSystemWriter):
    """Writes one checkpoint. Every rank must have one; rank 0 moves the folder when all have written."""

    def __init__(self, place: Path, when_whole: Callable[[], None]) -> None:
        """
        Args:
            place: the checkpoint's folder, which is not there yet.
            when_whole: called on rank 0 once it is.
        """
        self.place = place
        self.partial = partial_of(place)
        super().__init__(self.partial)
        self._when_whole = when_whole
        self.fs = self._files = _Hashing()

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        return [
            dataclasses.replace(plan, storage_data=_Prefix(f"rank-{rank}-"))
            for rank, plan in enumerate(plans)
        ]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        try:
            written = super().write_data(plan, planner).value()
        except RuntimeError as error:  # what torch.save makes of a file's own error
            raise self._files.failure or error from error
        told: Future[list[WriteResult]] = Future()
        told.set_result(
            [*written, _Checksums(MetadataIndex(""), 0, None, dict(self._files.written))]
        )
        return told

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        written = [result for of_rank in results for result in of_rank]
        super().finish(
            metadata, [[result for result in written if not isinstance(result, _Checksums)]]
        )
        files = {DCP_METADATA: self._files.written[DCP_METADATA]}
        for result in written:
            if isinstance(result, _Checksums):
                files |= result.files
        manifest = {name: dataclasses.asdict(checksum) for name, checksum in sorted(files.items())}
        with (self.partial / MANIFEST).open("x", encoding="utf8") as file:
            file.write(json.dumps({"files": manifest}, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(self.partial)
        remove_leftover(self.place)  # of the same step, where what comes after the move failed
        self.partial.replace(self.place)
        _sync_folder(self.place.parent)
        self._when_whole()


def partial_of(place: Path) -> Path:
    """The folder that a checkpoint is written in."""
    return place.with_name(f"{place.name}.partial")


def read_manifest(place: Path) -> dict[str, Checksum]:
    """Checksums of a checkpoint's files by name.

    Raises:
        ValueError: what is there is no manifest.
        OSError: it cannot be read.
    """
    try:
        files = json.loads((place / MANIFEST).read_text(encoding="utf8"))["files"]
        for name in files:
            if name in ("", ".", "..") or "/" in name or "\0" in name:
                raise ValueError(f"{name!r} is no file of the checkpoint")
        return {name: Checksum(**values) for name, values in files.items()}
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"no manifest: {error}") from error


@dataclass(frozen=True)
class _Prefix:
    """Of the names of a rank's files."""

    prefix: str


@dataclass(frozen=True)
class _Checksums(WriteResult):
    """What a rank tells rank 0 beside what it has written."""

    files: dict[str, Checksum]


class _Hashing(FileSystem):
    """Files that are hashed as they are written.

    Attributes:
        written: by name.
        failure: of a file that could not be written.
    """

    def __init__(self) -> None:
        self.written: dict[str, Checksum] = {}
        self.failure: OSError | None = None

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[io.IOBase]:
        assert mode == "wb", "a checkpoint's files are written once"
        with Path(path).open("xb") as file:  # never through a link that lies there
            stream = _HashedFile(file)
            try:
                yield stream
            except BaseException:
                self.failure = stream.failure
                raise
        self.written[Path(path).name] = Checksum(stream.length, stream.digest.hexdigest())

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        super().rename(path, new_path)
        self.written[Path(new_path).name] = self.written.pop(Path(path).name)


class _HashedFile(io.IOBase):
    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.length = 0
        self.failure: OSError | None = None

    def write(self, block: Any) -> int:
        try:
            written = self.file.write(block)
        except OSError as error:
            error.filename = self.file.name
            self.failure = error
            raise
        self.digest.update(block)
        self.length += written
        return written

    def tell(self) -> int:
        return self.length

    def flush(self) -> None:
        self.file.flush()

    def fileno(self) -> int:
        self.file.flush()
        return self.file.fileno()

    def close(self) -> None:
        self.file.close()


def _sync_folder(folder: Path) -> None:
    """Names in a folder are on the disk only then."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
