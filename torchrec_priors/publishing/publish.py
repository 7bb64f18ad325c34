"""Publishes the best checkpoint of a run as a version that services load.

    copy what serving reads into `versions/.NAME.partial`      `copy_run.py`
    load the copy, and answer the canary's requests            `canary.py`
    write the manifest; everything is on the disk              `version.py`
    rename the folder to `versions/NAME`                       `folder.py`
    name the version in `current.json`                         `current.py`
    remove old versions

A process that is killed leaves at most a hidden folder, or a complete version that is not current.
The next one removes the hidden folder.
"""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from torchrec_priors.common.files import partial_of
from torchrec_priors.common.system_errors import explaining
from torchrec_priors.errors import UserError
from torchrec_priors.publishing import KEEP
from torchrec_priors.publishing.canary import (
    CANARY,
    Canary,
    CanaryRequest,
    ask,
    default_requests,
    write_canary,
)
from torchrec_priors.publishing.copy_run import copy_run, is_copy
from torchrec_priors.publishing.current import Current, read_current, write_current
from torchrec_priors.publishing.files import checksum_of, sync_folders
from torchrec_priors.publishing.folder import PublishedFolder
from torchrec_priors.publishing.verify import verify
from torchrec_priors.publishing.version import (
    Manifest,
    check_version,
    now,
    read_manifest,
    write_manifest,
)
from torchrec_priors.remote.uri import Place
from torchrec_priors.serving.run import load_run
from torchrec_priors.training.open_run import OpenRun, open_run

log = logging.getLogger(__name__)

_LEAST_KEPT = 2  # the current version and the previous one


@dataclass(frozen=True)
class Published:
    """What was published.

    Attributes:
        version: the manifest of the version.
        place: the folder of the version.
        previous: the name of the version that was current before; None if there was none.
        removed: the names of the old versions that were removed.
    """

    version: Manifest
    place: Path
    previous: str | None
    removed: list[str]


def publish(
    run: Place | str,
    folder: Path,
    version: str | None = None,
    *,
    keep: int = KEEP,
    data: Place | str | None = None,
    trust: bool = False,
    canary: Sequence[CanaryRequest] | None = None,
) -> Published:
    """Publishes the best checkpoint of a run, and makes it the current version.

    Args:
        run: the folder or URI of the run. A training may work in it.
        folder: the folder of published models; it is created if necessary.
        version: the name of the version; None for the present time.
        keep: the number of versions to keep, at least 2: the current and the previous one.
        data: the folder or URI of the prepared data set, if it has moved since training.
        trust: whether to execute the custom code that the run was trained with.
        canary: requests that a service asks before it uses the version; None for some users of the
            data set.

    Raises:
        UserError: the run cannot be loaded, the version exists, or its name is invalid.
        OutsideError: the folder cannot be written.
    """
    _check_keep(keep)
    if version is not None:
        check_version(version)
    opened = open_run(run, data, trust=trust)
    if opened.folder.was_pushed:
        raise UserError(
            f"--run: '{run}' holds a pushed run, which cannot be published: name the folder in "
            "which it was trained, or serve it with --run"
        )
    published = PublishedFolder(folder)
    with explaining(f"--to: cannot write '{folder}'"), published.writing():
        name = version or _new_name(published)
        if published.version(name).exists():
            manifest = _complete_version(opened, published, name)
        else:
            manifest = _write_version(opened, published, name, canary)
        return _make_current(published, manifest, keep)


def publish_again(folder: Path, version: str, *, keep: int = KEEP) -> Published:
    """Makes a version that was published before the current one.

    Args:
        folder: the folder of published models.
        version: the name of the version.
        keep: as for `publish`.

    Raises:
        UserError: there is no such version, or it is damaged.
        OutsideError: the folder cannot be written.
    """
    _check_keep(keep)
    published = PublishedFolder(folder)
    if not published.version(version).is_dir():
        names = ", ".join(published.newest_first()[:20]) or "none"
        raise UserError(f"--version: '{folder}' has no version '{version}' (there are: {names})")
    with explaining(f"--to: cannot write '{folder}'"), published.writing():
        return _make_current(published, verify(published.version(version)), keep)


def _complete_version(opened: OpenRun, published: PublishedFolder, name: str) -> Manifest:
    """Returns the manifest of a version that a process has completed before it was killed.

    Raises:
        UserError: the version is current, or holds something else.
    """
    place = published.version(name)
    if name != _current_name(published) and is_copy(opened.folder, read_manifest(place).files):
        log.info("version '%s' is complete already: it becomes the current one", name)
        return verify(place)
    raise UserError(
        f"--version: version '{name}' exists in '{published.path}': choose another name, or leave "
        "out --run to make it the current one"
    )


def _write_version(
    opened: OpenRun,
    published: PublishedFolder,
    name: str,
    requests: Sequence[CanaryRequest] | None,
) -> Manifest:
    """Writes a version that appears under its name when it is complete."""
    partial = partial_of(published.version(name))
    try:
        files = copy_run(opened.folder, partial)
        checkpoint, canary = _try_out(opened, partial, requests)
        write_canary(partial, canary)
        files[CANARY] = checksum_of(partial / CANARY)
        manifest = Manifest(name, now(), checkpoint, canary.data_sha256, files)
        write_manifest(partial, manifest)
        sync_folders(partial)
        published.complete(name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


def _try_out(
    opened: OpenRun, partial: Path, requests: Sequence[CanaryRequest] | None
) -> tuple[str, Canary]:
    """Loads the copy; returns the name of its checkpoint, and its answers."""
    with load_run(partial, opened.data.folder, trust=opened.folder.trust) as loaded:
        asked = default_requests(loaded) if requests is None else requests
        return loaded.checkpoint, ask(loaded, asked)


def _make_current(published: PublishedFolder, manifest: Manifest, keep: int) -> Published:
    """Names the version in `current.json`, and removes old ones."""
    name = manifest.name
    previous = _current_name(published)
    write_current(published.path, Current(name, now()))

    kept = [name]
    if previous is not None and previous != name:
        kept.append(previous)
    removed = []
    for old in published.newest_first():
        if old in kept:
            continue
        if len(kept) < keep:
            kept.append(old)
        else:
            published.remove(old)
            removed.append(old)
    return Published(manifest, published.version(name), previous, removed)


def _current_name(published: PublishedFolder) -> str | None:
    """Returns the version that was current until now; None if there was none, or it is gone."""
    try:
        current = read_current(published.path)
    except UserError as error:
        log.warning("%s; it is written again", error)
        return None
    if current is None or not published.version(current.version).is_dir():
        return None
    return current.version


def _new_name(published: PublishedFolder) -> str:
    """Returns the present time as a name that no version has."""
    time = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    names = (time if number == 1 else f"{time}-{number}" for number in count(1))
    return next(name for name in names if not published.version(name).exists())


def _check_keep(keep: int) -> None:
    if keep < _LEAST_KEPT:
        raise UserError(
            f"--keep: {keep} is too few: keep at least {_LEAST_KEPT}, the current version and the "
            "previous one"
        )
