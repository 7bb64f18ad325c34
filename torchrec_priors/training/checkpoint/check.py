"""Checks that a checkpoint's files are as written, before anything is read from them."""

import hashlib
import logging
import stat
from pathlib import Path

import torch.distributed as dist

from torchrec_priors.ranks.process import Ranks
from torchrec_priors.training.checkpoint.keys import DATA_FILES, DCP_METADATA, MANIFEST
from torchrec_priors.training.checkpoint.manifest import (
    Checksum,
    NewerFormatError,
    read_manifest,
)

log = logging.getLogger(__name__)

Listing = dict[str, Checksum] | str | NewerFormatError


def flaw(place: Path, ranks: Ranks) -> str | None:
    """Says what is wrong with a checkpoint's files; None if each file is as written.

    Every rank must call it; each reads its share of the files. A checkpoint of an earlier version
    has no checksums and is accepted unchecked, which is logged.

    Raises:
        NewerFormatError: a later release has written the checkpoint; raised on every rank.
    """
    # Only rank 0 lists the files, so all ranks come to the same result on a shared file system
    # that shows them different states.
    listings: list[Listing] = [_list_files(place)] if ranks.leads else [""]
    if ranks.world > 1:
        dist.broadcast_object_list(listings, group_src=0, group=ranks.side)
    (files,) = listings
    if isinstance(files, NewerFormatError):
        raise files
    if isinstance(files, str):
        return files

    flaws: list[str | None] = [_first_flaw(place, _share(files, ranks))]
    if ranks.world > 1:
        (own_flaw,) = flaws
        flaws = [None] * ranks.world
        dist.all_gather_object(flaws, own_flaw, group=ranks.side)

    return next((message for message in flaws if message is not None), None)


def _list_files(place: Path) -> Listing:
    """Returns the checksums of all files that must exist, or why they cannot be listed."""
    data_files = {file.name for file in place.glob(DATA_FILES)}

    # The names of the data files distinguish an earlier version from a missing manifest.
    if not (place / MANIFEST).is_file() and not data_files:
        if not (place / DCP_METADATA).is_file():
            return f"{DCP_METADATA} is missing"
        log.warning(
            "checkpoint '%s' has no checksums, as an earlier version wrote it: its files are not "
            "checked",
            place,
        )
        return {}

    try:
        files = read_manifest(place)
    except NewerFormatError as error:
        return error
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError) as error:
        return f"{MANIFEST} cannot be read ({' '.join(str(error).split())})"

    unknown = sorted({DCP_METADATA, *data_files} - files.keys())
    if unknown:
        return f"{MANIFEST} does not name {unknown[0]}"
    return files


def _share(files: dict[str, Checksum], ranks: Ranks) -> dict[str, Checksum]:
    """Returns the files that this rank checks; all ranks get about the same number of bytes."""
    loads = [0] * ranks.world
    share = {}

    # The largest files first, each to the rank that has the least so far.
    for name, checksum in sorted(files.items(), key=lambda item: (-item[1].bytes, item[0])):
        rank = loads.index(min(loads))
        loads[rank] += checksum.bytes
        if rank == ranks.rank:
            share[name] = checksum
    return share


def _first_flaw(place: Path, files: dict[str, Checksum]) -> str | None:
    for name, checksum in files.items():
        try:
            # The length first: it is cheap, and says more about a file that was cut.
            status = (place / name).stat()
            if not stat.S_ISREG(status.st_mode):
                return f"{name} is no file"
            length = status.st_size
            if length != checksum.bytes:
                return f"{name} has {length:,} bytes instead of {checksum.bytes:,}"

            with (place / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != checksum.sha256:
                    return f"{name} does not match its checksum"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return None
