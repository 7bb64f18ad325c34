"""Whether a checkpoint's files are what was written: nothing is read of them before."""

import hashlib
import logging
import stat
from pathlib import Path

import torch.distributed as dist

from torchrec_priors.ranks.process import Ranks
from torchrec_priors.training.checkpoint.files import (
    DATA_FILES,
    DCP_METADATA,
    MANIFEST,
    Checksum,
    read_manifest,
)

log = logging.getLogger(__name__)


def flaw(place: Path, ranks: Ranks) -> str | None:
    """What is wrong with a checkpoint's files, in words; None where each is as it was written.

    Every rank must call it; each reads its share of the files. A checkpoint of an earlier version has no checksums and
    is taken as it is, which is logged.
    """
    told: list[dict[str, Checksum] | str] = [_listed(place)] if ranks.leads else [""]
    if ranks.world > 1:
        dist.broadcast_object_list(told, group_src=0, group=ranks.side)
    (files,) = told
    if isinstance(files, str):
        return files
    found: list[str | None] = [_first_flaw(place, _share(files, ranks))]
    if ranks.world > 1:
        (own,) = found
        found = [None] * ranks.world
        dist.all_gather_object(found, own, group=ranks.side)
    return next((each for each in found if each is not None), None)


def _listed(place: Path) -> dict[str, Checksum] | str:
    """Checksums of all files that there should be, or why there are none."""
    there = {file.name for file in place.glob(DATA_FILES)}
    if not (place / MANIFEST).is_file() and not there:
        if not (place / DCP_METADATA).is_file():
            return f"{DCP_METADATA} is missing"
        log.warning(
            "checkpoint '%s' has no checksums, as an earlier version made it: taken as it is", place
        )
        return {}
    try:
        files = read_manifest(place)
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError) as error:
        return f"{MANIFEST} cannot be read ({' '.join(str(error).split())})"
    unknown = sorted({DCP_METADATA, *there} - files.keys())
    return f"{MANIFEST} does not name {unknown[0]}" if unknown else files


def _share(files: dict[str, Checksum], ranks: Ranks) -> dict[str, Checksum]:
    """This rank's part, about as many bytes as any other's."""
    loads = [0] * ranks.world
    own = {}
    for name, checksum in sorted(files.items(), key=lambda item: (-item[1].bytes, item[0])):
        rank = loads.index(min(loads))
        loads[rank] += checksum.bytes
        if rank == ranks.rank:
            own[name] = checksum
    return own


def _first_flaw(place: Path, files: dict[str, Checksum]) -> str | None:
    for name, checksum in files.items():
        try:
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
