"""Writes the files of a checkpoint, and hashes them while they are written.

step-N/.metadata, rank-*.distcp   files of `torch.distributed.checkpoint`
step-N/checksums.json             the format's number; SHA-256 and length of each of these files

The files are written into a folder `step-N.partial`, from which no command reads. It is renamed to
`step-N` when all files are complete on the disk. So a folder with that name is always complete.
"""

import dataclasses
import hashlib
import io
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

from torchrec_priors.common.files import json_text, remove_leftover, sync_folder
from torchrec_priors.training.checkpoint.keys import (
    DCP_METADATA,
    FILES,
    FORMAT,
    FORMAT_NUMBER,
    MANIFEST,
)
from torchrec_priors.training.checkpoint.manifest import Checksum


class Writer(FileSystemWriter):
    """Writes one checkpoint.

    Every rank must create a writer. Rank 0 renames the folder when all ranks have written.
    """

    def __init__(self, place: Path, when_whole: Callable[[], None]) -> None:
        """
        Args:
            place: the checkpoint's folder, which does not exist yet.
            when_whole: a function that is called on rank 0 after the folder was renamed.
        """
        self.place = place
        self.partial = partial_of(place)
        super().__init__(self.partial)

        self._when_whole = when_whole
        self._files = _Hashing()
        self.fs = self._files  # the base class opens and renames files through `fs`

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Gives the files of each rank names that begin with `rank-`."""
        # Versions without checksums used PyTorch's names. Because the names differ, `check.py` can
        # distinguish such a checkpoint from one that has lost its checksums.
        return [
            dataclasses.replace(plan, storage_data=_Prefix(f"rank-{rank}-"))
            for rank, plan in enumerate(plans)
        ]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Writes this rank's files; their checksums are sent to rank 0 as an additional result."""
        try:
            results = super().write_data(plan, planner).value()
        except RuntimeError as error:
            # torch.save hides the error of the file, which says what is wrong with the disk. That
            # error is raised instead.
            raise self._files.failure or error from error

        # PyTorch's own fields of a result (a tensor's index, size and place) are not used here.
        checksums = _Checksums(MetadataIndex(""), 0, None, dict(self._files.written))
        future: Future[list[WriteResult]] = Future()
        future.set_result([*results, checksums])
        return future

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Writes metadata and manifest, and renames the folder; only rank 0 calls it."""
        # PyTorch would treat the checksums as tensors, so they are removed first.
        gathered = [result for results_of_rank in results for result in results_of_rank]
        tensors = [result for result in gathered if not isinstance(result, _Checksums)]
        super().finish(metadata, [tensors])

        files = {DCP_METADATA: self._files.written[DCP_METADATA]}
        for result in gathered:
            if isinstance(result, _Checksums):
                files |= result.files
        self._write_manifest(files)

        # The order matters: the files and their names must be on the disk before the folder gets
        # the name that makes it a checkpoint. A folder of the same step exists if an earlier
        # attempt failed after it was renamed.
        sync_folder(self.partial)
        remove_leftover(self.place)
        self.partial.replace(self.place)
        sync_folder(self.place.parent)
        self._when_whole()

    def _write_manifest(self, files: dict[str, Checksum]) -> None:
        entries = {name: dataclasses.asdict(checksum) for name, checksum in sorted(files.items())}
        with (self.partial / MANIFEST).open("x", encoding="utf8") as file:
            file.write(json_text({FORMAT_NUMBER: FORMAT, FILES: entries}))
            file.flush()
            os.fsync(file.fileno())


def partial_of(place: Path) -> Path:
    """Returns the folder that a checkpoint is written into before it is renamed to `place`."""
    return place.with_name(f"{place.name}.partial")


@dataclass(frozen=True)
class _Prefix:
    """The beginning of the names of a rank's files, in the form that PyTorch expects."""

    prefix: str


@dataclass(frozen=True)
class _Checksums(WriteResult):
    """The checksums of a rank's files, sent to rank 0 together with the list of its tensors."""

    files: dict[str, Checksum]


class _Hashing(FileSystem):
    """A file system for PyTorch that hashes files while they are written.

    Attributes:
        written: the checksums of the complete files, by name.
        failure: the error of the file that could not be written; None if there was no error.
    """

    def __init__(self) -> None:
        self.written: dict[str, Checksum] = {}
        self.failure: OSError | None = None

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[io.IOBase]:
        assert mode == "wb", "a checkpoint's files are written once"

        # Mode "x" fails if the name exists, so it never writes through a link to another place.
        with Path(path).open("xb") as file:
            stream = _HashedFile(file)
            try:
                yield stream
            except BaseException:
                self.failure = stream.failure
                raise

        self.written[Path(path).name] = Checksum(stream.length, stream.digest.hexdigest())

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        # PyTorch first writes `.metadata` under another name.
        super().rename(path, new_path)
        self.written[Path(new_path).name] = self.written.pop(Path(path).name)


class _HashedFile(io.IOBase):
    """A file that is written from its beginning to its end and hashed at the same time.

    Attributes:
        digest: the SHA-256 of the bytes so far.
        length: the number of bytes so far.
        failure: the error of a write that failed; None if there was no error.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.length = 0
        self.failure: OSError | None = None

    def write(self, block: Any) -> int:
        try:
            written = self.file.write(block)
        except OSError as error:
            # The system's error does not contain the name of the file.
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
        # PyTorch calls fsync with the descriptor. That would miss the bytes that are still in
        # Python's buffer, so the buffer is written first.
        self.file.flush()
        return self.file.fileno()

    def close(self) -> None:
        self.file.close()
