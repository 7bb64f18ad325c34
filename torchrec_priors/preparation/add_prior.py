"""Adds a prior to a prepared data set, so that a kill at any moment leaves a whole one."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq

from torchrec_priors.data.manifest import FileInfo, Manifest, PriorInfo, describe_file, hash_of, read_manifest
from torchrec_priors.errors import UserError
from torchrec_priors.preparation.check import check_name
from torchrec_priors.preparation.grouping import Grouping


def check_free(manifest: Manifest, name: str, overwrite: bool) -> None:
    """Raises UserError where a prior of this name cannot be added."""
    check_name(name, "--name")
    present = next((prior for prior in manifest.priors if prior.name == name), None)
    if present is None and f"priors/{name}.parquet" in {info.path for info in manifest.files}:
        raise UserError(f"--name: 'priors/{name}.parquet' is a file of another prior: choose another name")
    if present is not None and not present.made_by:
        raise UserError(f"--name: prior '{name}' came with the data, which stays as it is: choose another name")
    if present is not None and not overwrite:
        raise UserError(f"--name: there is a prior '{name}' already: choose another name, or --overwrite")


def add_prior(folder: Path, name: str, grouping: Grouping, read: Manifest, *, overwrite: bool = False) -> Manifest:
    """Writes `priors/<name>.parquet`, then the manifest that lists it.

    A prior that is overwritten is taken out of the manifest first, as its file and the manifest cannot change in one
    move: a kill leaves the data set as it was, without this prior, or with the new one.

    Args:
        read: the manifest of the data that the groups were made of.

    Raises:
        UserError: the name is taken, the data changed meanwhile, or the folder cannot be written.
    """
    check_name(name, "--name")
    info = PriorInfo(name, grouping.kind, grouping.groups, grouping.sizes, made_by=grouping.made_by)
    file = folder / info.path
    partial = file.with_name(f".{name}.parquet.partial")
    try:
        with _locked(folder):
            manifest = read_manifest(folder)
            if manifest.prepared_sha256 != read.prepared_sha256:
                raise UserError(f"--data: '{folder}' was prepared anew while the prior was made: run this again")
            check_free(manifest, name, overwrite)
            pq.write_table(grouping.table, partial, compression="zstd")
            written = describe_file(partial, info.path)
            others = [prior for prior in manifest.priors if prior.name != name]
            files = [other for other in manifest.files if other.path != info.path]
            if len(others) < len(manifest.priors):
                _with(manifest, others, files).write(folder)
            partial.replace(file)
            made = _with(manifest, [*others, info], [*files, written])
            made.write(folder)
    except OSError as error:
        raise UserError(f"--data: cannot write '{error.filename or folder}': {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return made


def _with(manifest: Manifest, priors: list[PriorInfo], files: list[FileInfo]) -> Manifest:
    ordered = sorted(files, key=lambda info: Path(info.path))
    return replace(manifest, priors=priors, files=ordered, content_sha256=hash_of(ordered))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time, so that none writes a manifest without the prior of another."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
