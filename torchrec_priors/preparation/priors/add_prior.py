"""Adds a prior to a prepared data set, so that a kill at any moment leaves a whole one."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from torchrec_priors.common.files import check_no_link, new_file, write_whole
from torchrec_priors.common.scratch import scratch_folder
from torchrec_priors.common.system_errors import explaining
from torchrec_priors.errors import UserError
from torchrec_priors.parquet import write_table
from torchrec_priors.preparation.build.check import check_name
from torchrec_priors.preparation.priors.grouping import Grouping
from torchrec_priors.prepared.manifest import (
    FILE,
    FileInfo,
    Manifest,
    PriorInfo,
    describe_file,
    hash_of,
    read_manifest,
)
from torchrec_priors.prepared.opening import manifest_in
from torchrec_priors.remote.cache import default_cache
from torchrec_priors.remote.store import Store
from torchrec_priors.remote.uri import Place, Uri


def check_free(manifest: Manifest, name: str, overwrite: bool) -> None:
    """Raises UserError where a prior of this name cannot be added."""
    check_name(name, "--name")
    present = next((prior for prior in manifest.priors if prior.name == name), None)
    if present is None and f"priors/{name}.parquet" in {info.path for info in manifest.files}:
        raise UserError(
            f"--name: 'priors/{name}.parquet' is a file of another prior: choose another name"
        )
    if present is not None and not present.made_by:
        raise UserError(
            f"--name: prior '{name}' came with the data, which stays as it is: choose another name"
        )
    if present is not None and not overwrite:
        raise UserError(
            f"--name: there is a prior '{name}' already: choose another name, or --overwrite"
        )


def add_prior(
    folder: Path, name: str, grouping: Grouping, read: Manifest, *, overwrite: bool = False
) -> Manifest:
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
    check_no_link((folder / info.path).parent, folder)
    ready = folder / f".{FILE}.ready"
    with explaining(f"--data: '{folder}'"), locked(folder):
        manifest = read_manifest(folder)
        _check_same(manifest, read, folder)
        check_free(manifest, name, overwrite)
        try:
            with new_file(folder / info.path) as partial:
                write_table(grouping.table, partial)
                without, made = _changed(manifest, info, describe_file(partial, info.path))

                # There is room for all of it before anything changes, so that a full disk costs nothing that is there.
                write_whole(ready, made.text())
                if without is not None:
                    without.write(folder)
            ready.replace(folder / FILE)
        finally:
            ready.unlink(missing_ok=True)
    return made


def add_prior_there(
    uri: Uri, name: str, grouping: Grouping, read: Manifest, *, overwrite: bool = False
) -> Manifest:
    """The same in a store, in the same order. Stores have no locks: one process at a time may do so.

    Raises:
        UserError: as `add_prior`, or a store that cannot be written.
        OutsideError: a store that does not answer.
    """
    check_name(name, "--name")
    store = Store(uri, "--data")
    cache = default_cache()
    store.require_writable()
    info = PriorInfo(name, grouping.kind, grouping.groups, grouping.sizes, made_by=grouping.made_by)
    with cache.writable(), scratch_folder(cache.subfolder("scratch"), "prior") as scratch:
        file = scratch / "prior.parquet"
        text = scratch / FILE
        write_table(grouping.table, file)
        manifest = manifest_in(store)
        _check_same(manifest, read, uri)
        check_free(manifest, name, overwrite)
        without, made = _changed(manifest, info, describe_file(file, info.path))
        if without is not None:
            without.write(text.parent)
            store.put(text, FILE)
        store.put(file, info.path)
        made.write(text.parent)
        store.put(text, FILE)
    return made


def _check_same(now: Manifest, read: Manifest, folder: Place) -> None:
    if now.prepared_sha256 != read.prepared_sha256:
        raise UserError(
            f"--data: '{folder}' was prepared anew while the prior was made: run this again"
        )


def _changed(
    manifest: Manifest, info: PriorInfo, written: FileInfo
) -> tuple[Manifest | None, Manifest]:
    """The manifest without a prior of this name, where it has one, and with the new one."""
    others = [prior for prior in manifest.priors if prior.name != info.name]
    files = [other for other in manifest.files if other.path != info.path]
    without = _with(manifest, others, files) if len(others) < len(manifest.priors) else None
    return without, _with(manifest, [*others, info], [*files, written])


def _with(manifest: Manifest, priors: list[PriorInfo], files: list[FileInfo]) -> Manifest:
    ordered = sorted(files, key=lambda info: Path(info.path))
    return replace(manifest, priors=priors, files=ordered, content_sha256=hash_of(ordered))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time, so that none writes a manifest without what another added."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
