"""The option `--threads` of the apps that compute, and what it does."""

import logging
import os

from torchrec_priors.errors import UserError

log = logging.getLogger(__name__)

THREADS = "The most threads with which each process computes. [cores, or OMP_NUM_THREADS]"
_MOST = 4_096


def check_threads(threads: int | None) -> None:
    """Raises UserError if the value of `--threads` is not a possible number of threads."""
    if threads is not None and not 1 <= threads <= _MOST:
        raise UserError(f"--threads must be in [1, {_MOST}], not {threads}")


def use_threads(threads: int | None, *, warns: bool = False) -> None:
    """Makes PyTorch compute with a number of threads.

    Args:
        threads: the value of `--threads`; None leaves the number as it is. More threads than the
            machine has cores are never used: they would only wait for each other.
        warns: whether to warn if the machine is busy. Only what computes for long should do so.
    """
    check_threads(threads)
    # Importing torch takes seconds, and --help does not need it.
    import torch

    if threads is not None:
        torch.set_num_threads(min(threads, _cores()))
    if warns and torch.get_num_threads() > 1:
        warn_if_busy("threads will wait for each other: --threads 1 may be faster")


def warn_if_busy(consequence: str) -> None:
    """Warns if more is running on this machine than it has cores.

    Args:
        consequence: what this means for the app, for the end of the message.
    """
    try:
        load = os.getloadavg()[0]
    except OSError:  # the system does not say
        return
    if load > _cores():
        log.warning("this machine is busy (load %.1f, cores %d): %s", load, _cores(), consequence)


def _cores() -> int:
    """Returns the number of cores of the machine, to which its load belongs."""
    return os.cpu_count() or 1
