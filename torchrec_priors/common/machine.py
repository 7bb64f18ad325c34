"""How much memory this machine has, or the part of it that a container gives us."""

import os
from collections.abc import Iterable
from pathlib import Path

_LIMITS = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)  # cgroup 2 and 1


def total_memory(limits: Iterable[str] = _LIMITS) -> int:
    """Bytes.

    Args:
        limits: files in which the system may say that it gives us less than there is.
    """
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([there, *(limit for file in limits if (limit := _limit(Path(file))))])


def _limit(file: Path) -> int | None:
    try:
        text = file.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None  # "max" where there is none
