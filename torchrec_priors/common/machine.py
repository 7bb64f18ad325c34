"""How much memory this machine has, or the part of it that a container may use."""

import os
from collections.abc import Iterable
from pathlib import Path

_LIMITS = (
    "/sys/fs/cgroup/memory.max",  # cgroup 2
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",  # cgroup 1
)


def total_memory(limits: Iterable[str] = _LIMITS) -> int:
    """The memory that this process may use, in bytes.

    Args:
        limits: files in which the system may limit it to less than the machine has.
    """
    amounts = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for file in limits:
        limit = _limit(Path(file))
        if limit:
            amounts.append(limit)
    return min(amounts)


def _limit(file: Path) -> int | None:
    """The limit in a file; None if it does not exist or sets no limit."""
    try:
        text = file.read_text(encoding="ascii").strip()
    except OSError:
        return None
    # "max" means no limit.
    if not text.isdigit():
        return None
    return int(text)
