"""What becomes of freed memory: that of steps stays with the process, that of reading the data goes back.

glibc gives large blocks back as soon as they are free; a step that makes tensors of a few megabytes by the hundred then
pays for every page once more, each step, which takes as long as computing what is written to it. Columns of a large
catalogue, on the other hand, are read once: what they took would stand beside the table for the whole run.
"""

import ctypes
import sys

import pyarrow as pa

# of malloc.h
_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3
# bytes kept at the end of the heap; larger blocks still go back, glibc's own limit
_KEPT = 1 << 30
_LARGE = 1 << 25


def keep_freed_memory() -> bool:
    """Whether the C library has such a setting and took it; another's is left as it is."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return (
        mallopt is not None
        and bool(mallopt(_MMAP_THRESHOLD, _LARGE))
        and bool(mallopt(_TRIM_THRESHOLD, _KEPT))
    )


def give_back_freed_memory() -> None:
    """To the system, as far as the C library and Arrow can."""
    pa.default_memory_pool().release_unused()
    trim = (
        getattr(ctypes.CDLL(None), "malloc_trim", None)
        if sys.platform.startswith("linux")
        else None
    )
    if trim is not None:
        trim(0)
