"""Adds a prior to a prepared data set, which stays complete even if the process is killed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from filelock import lock_descriptor

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
    """Raises UserError if a prior with this name cannot be added."""
    check_name(name, "--name")
    present = next((prior for prior in manifest.priors if prior.name == name), None)

    if present is None:
        # A prior of events has a second file, `priors/<prior>.eligible.parquet`. A new prior with
        # the name `<prior>.eligible` would overwrite it.
        if f"priors/{name}.parquet" in {info.path for info in manifest.files}:
            raise UserError(
                f"--name: 'priors/{name}.parquet' is a file of another prior: choose another name"
            )
        return

    # A prior of the corpus must not be replaced, because it cannot be computed again.
    if not present.made_by:
        raise UserError(
            f"--name: prior '{name}' came with the data, which stays as it is: choose another name"
        )
    if not overwrite:
        raise UserError(
            f"--name: prior '{name}' already exists: choose another name, or --overwrite"
        )


def add_prior(
    folder: Path, name: str, grouping: Grouping, read: Manifest, *, overwrite: bool = False
) -> Manifest:
    """Writes `priors/<name>.parquet`, and then the manifest that lists it.

    The file of a prior and the manifest cannot change at the same moment. Therefore a prior that is
    overwritten is first removed from the manifest. If the process is killed, the data set has the
    old prior, neither of the two, or the new prior.

    Args:
        folder: the folder of the prepared data set.
        name: the name of the prior.
        grouping: the groups and their members.
        read: the manifest of the data from which the groups were computed.
        overwrite: whether the prior may replace one with the same name.

    Returns:
        The new manifest.

    Raises:
        UserError: the name is taken, the data has changed in the meantime, or the folder cannot be
            written.
    """
    check_name(name, "--name")
    info = PriorInfo(name, grouping.kind, grouping.groups, grouping.sizes, made_by=grouping.made_by)
    check_no_link((folder / info.path).parent, folder)
    ready = folder / f".{FILE}.ready"

    with explaining(f"--data: '{folder}'"), locked(folder):
        # These checks need the lock, because another process may have added a prior since the
        # manifest `read` was read.
        manifest = read_manifest(folder)
        _check_same(manifest, read, folder)
        check_free(manifest, name, overwrite)

        try:
            with new_file(folder / info.path) as partial:
                write_table(grouping.table, partial)
                without, made = _changed(manifest, info, describe_file(partial, info.path))

                # All files are written before any existing file changes, so a full disk does no
                # damage.
                write_whole(ready, made.text())
                if without is not None:
                    without.write(folder)

            # This move adds the prior to the data set.
            ready.replace(folder / FILE)
        finally:
            ready.unlink(missing_ok=True)

    return made


def add_prior_there(
    uri: Uri, name: str, grouping: Grouping, read: Manifest, *, overwrite: bool = False
) -> Manifest:
    """Adds a prior to a data set in a store, in the same order of steps as `add_prior`.

    Stores have no locks, so only one process at a time may add a prior to a data set.

    Raises:
        UserError: for the same reasons as in `add_prior`, or the store cannot be written.
        OutsideError: the store does not answer.
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

        # The manifest is read late, to shorten the time in which another process could change it.
        manifest = manifest_in(store)
        _check_same(manifest, read, uri)
        check_free(manifest, name, overwrite)

        without, made = _changed(manifest, info, describe_file(file, info.path))
        if without is not None:
            without.write(text.parent)
            store.put(text, FILE)

        # The manifest is uploaded last, so it never lists a file that is not in the store.
        store.put(file, info.path)
        made.write(text.parent)
        store.put(text, FILE)

    return made


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds a lock on the folder, so that processes do not overwrite each other's manifests."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        # If the process is killed, the operating system releases the lock.
        lock_descriptor(handle)
        yield
    finally:
        os.close(handle)


def _check_same(now: Manifest, read: Manifest, folder: Place) -> None:
    if now.prepared_sha256 != read.prepared_sha256:
        raise UserError(
            f"--data: '{folder}' was prepared again while the prior was computed: run this again"
        )


def _changed(
    manifest: Manifest, info: PriorInfo, written: FileInfo
) -> tuple[Manifest | None, Manifest]:
    """Returns a manifest without the old prior of this name, and a manifest with the new prior.

    The former is None if there is no old prior.
    """
    others = [prior for prior in manifest.priors if prior.name != info.name]
    files = [file for file in manifest.files if file.path != info.path]

    without = None
    if len(others) < len(manifest.priors):
        without = with_priors(manifest, others, files)
    return without, with_priors(manifest, [*others, info], [*files, written])


def with_priors(manifest: Manifest, priors: list[PriorInfo], files: list[FileInfo]) -> Manifest:
    """Returns a copy of the manifest with other priors and files."""
    # The order is part of the hash, so it must not depend on when a prior was added.
    ordered = sorted(files, key=lambda info: Path(info.path))
    return replace(manifest, priors=priors, files=ordered, content_sha256=hash_of(ordered))
