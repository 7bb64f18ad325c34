"""Finds how much memory a process on this machine, or in this container, may use."""

import os
from collections.abc import Iterable
from pathlib import Path

_LIMITS = (
    "/sys/fs/cgroup/memory.max",  # cgroup 2
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",  # cgroup 1
)


def total_memory(limits: Iterable[str] = _LIMITS) -> int:
    """Returns the memory that this process may use, in bytes.

    Args:
        limits: files with limits of the system, which may be lower than the machine's memory.
    """
    amounts = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for file in limits:
        limit = _limit(Path(file))
        if limit:
            amounts.append(limit)
    return min(amounts)


def _limit(file: Path) -> int | None:
    """Returns the limit in a file; None if the file does not exist or sets no limit."""
    try:
        text = file.read_text(encoding="ascii").strip()
    except OSError:
        return None
    # "max" means no limit.
    if not text.isdigit():
        return None
    return int(text)
