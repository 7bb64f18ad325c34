"""Makes sure that only one training at a time works in a run's folder.

A lock on a file does this. The system releases it when the process that holds it ends, even if the
process is killed.
"""

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

# The errors of file systems that do not support locks.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextmanager
def claimed(folder: Path, ranks: Ranks) -> Iterator[None]:
    """Reserves a run's folder for the ranks of one training. Every rank must call it.

    Rank 0 holds the lock. Commands that only read the folder need no lock. The file of the lock is
    not removed afterwards.

    Raises:
        UserError: another training works in the folder. Every rank raises it.
        OSError: the folder cannot be written. Only rank 0 raises it.
    """
    lock: FileLock | None = None
    refusals: list[str | None] = [None]
    if ranks.leads:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        refusals = [_acquire(lock, folder)]

    # All ranks get the result. Otherwise they would wait for rank 0, which may have ended.
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
    """Takes the lock. If another training holds it, returns the message for the user.

    If the file system does not support locks, a warning is logged, and training starts without a
    lock.
    """
    # The call does not wait, so the user learns immediately that the folder is in use.
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return (
            f"--run: another training uses '{folder}': wait until it ends, or choose another folder"
        )
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise

        log.warning(
            "'%s' is on a file system without locks: make sure that only one training works there",
            folder,
        )
    return None
