"""Checks that a checkpoint's files have not changed, before tensors are read from them."""

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
    """Describes what is wrong with a checkpoint's files; None if all files are as written.

    Every rank must call it, and each reads its share of the files. A checkpoint of an earlier
    version has no checksums. It is accepted without a check, and this is logged.

    Raises:
        NewerFormatError: a later release has written the checkpoint. Every rank raises it.
    """
    # A shared file system may show the ranks different states of the folder. So only rank 0 lists
    # the files, and all ranks come to the same result.
    listings: list[Listing] = [_list_files(place)] if ranks.leads else [""]
    if ranks.world > 1:
        dist.broadcast_object_list(listings, group_src=0, group=ranks.side)
    (files,) = listings
    if isinstance(files, NewerFormatError):
        raise files
    if isinstance(files, str):
        return files
    return flaw_of_files(place, files, ranks)


def flaw_of_files(place: Path, files: dict[str, Checksum], ranks: Ranks) -> str | None:
    """Describes the first file that is not as its checksum says; None if all files are.

    Every rank must call it, and each reads its share of the files.

    Args:
        place: the folder.
        files: the checksums of the files, by name, the same on every rank.
        ranks: all ranks.
    """
    flaws: list[str | None] = [_first_flaw(place, _share(files, ranks))]
    if ranks.world > 1:
        (own_flaw,) = flaws
        flaws = [None] * ranks.world
        dist.all_gather_object(flaws, own_flaw, group=ranks.side)

    return next((message for message in flaws if message is not None), None)


def _list_files(place: Path) -> Listing:
    """Returns the checksums of all files that must exist, or the reason why they are unknown."""
    data_files = {file.name for file in place.glob(DATA_FILES)}

    # Earlier versions wrote no manifest, and their data files have other names. If there are data
    # files with the present names, the manifest has been lost.
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

    # Starting with the largest file, each file goes to the rank with the fewest bytes so far.
    for name, checksum in sorted(files.items(), key=lambda item: (-item[1].bytes, item[0])):
        rank = loads.index(min(loads))
        loads[rank] += checksum.bytes
        if rank == ranks.rank:
            share[name] = checksum
    return share


def _first_flaw(place: Path, files: dict[str, Checksum]) -> str | None:
    """Describes the first file that is not as written; None if all files are."""
    for name, checksum in files.items():
        try:
            # The length is checked first: this is fast, and the message is clearer if the file was
            # cut off.
            status = (place / name).stat()
            if not stat.S_ISREG(status.st_mode):
                return f"{name} is not a regular file"
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
