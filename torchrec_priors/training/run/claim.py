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

# What file systems without locks answer.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextmanager
def claimed(folder: Path, ranks: Ranks) -> Iterator[None]:
    """Holds a run's folder for the ranks of one training. Every rank must call it.

    Rank 0 holds the lock. Commands that only read the folder need no lock. The lock's file stays.

    Raises:
        UserError: another training holds the folder; raised on every rank.
        OSError: the folder cannot be written; raised on rank 0.
    """
    lock: FileLock | None = None
    refusals: list[str | None] = [None]
    if ranks.leads:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        refusals = [_acquire(lock, folder)]

    # All ranks end with the same message, instead of waiting for a rank 0 that has ended.
    if ranks.world > 1:
        dist.broadcast_object_list(refusals, group_src=0, group=ranks.side)
    if refusals[0] is not None:
        raise UserError(refusals[0])

    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def _acquire(lock: FileLock, folder: Path) -> str | None:
    """Takes the lock, or says why it cannot be taken.

    A file system without locks is logged, and training goes ahead without one.
    """
    # Not waiting: the user learns at once that the folder is in use.
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return (
            f"--run: another training is at work in '{folder}': wait until it ends, or choose "
            "another folder"
        )
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise

        log.warning(
            "'%s' is on a file system without locks: make sure that only one training works there",
            folder,
        )
    return None
