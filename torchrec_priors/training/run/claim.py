"""One training at a time in a run's folder: a lock that ends with the process that holds it."""

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist
from filelock import FileLock, Timeout

from torchrec_priors.errors import UserError
from torchrec_priors.ranks.process import Ranks
from torchrec_priors.training.run.folder import LOCK

log = logging.getLogger(__name__)

_NO_LOCKS = (
    errno.ENOSYS,
    errno.ENOLCK,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
)  # of file systems that have none


@contextmanager
def claimed(folder: Path, ranks: Ranks) -> Iterator[None]:
    """Holds a run's folder for the ranks of one training. Every rank must call it; rank 0 holds the lock.

    Who only reads the folder asks for no lock. The lock's file stays.

    Raises:
        UserError: another training has the folder; the same on every rank.
        OSError: the folder cannot be written, on rank 0.
    """
    lock: FileLock | None = None
    refused: list[str | None] = [None]
    if ranks.leads:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        refused = [_acquire(lock, folder)]
    if ranks.world > 1:
        dist.broadcast_object_list(refused, group_src=0, group=ranks.side)
    if refused[0] is not None:
        raise UserError(refused[0])

    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def _acquire(lock: FileLock, folder: Path) -> str | None:
    """Why it cannot be had; None where it is held, or where there are no locks, which is logged."""
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return f"--run: another training is at work in '{folder}': wait until it ends, or choose another folder"
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
        log.warning(
            "'%s' is on a file system without locks: see to it that one training works there",
            folder,
        )
    return None
