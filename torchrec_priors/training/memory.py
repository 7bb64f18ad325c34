"""What becomes of freed memory: that of steps is kept, that of reading data goes back.

glibc returns large blocks to the system as soon as they are free. A step that creates tensors of a
few megabytes by the hundred then pays for every page again, in each step, which takes as long as
computing what is written to it. Columns of a large catalogue, on the other hand, are read once: the
memory that they took would stay taken, in addition to the table, for the whole run.
"""

import ctypes
import sys

import pyarrow as pa

# Parameters of glibc's mallopt, from malloc.h.
_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3

# Bytes kept at the end of the heap. Larger blocks still go back: that is glibc's own limit.
_KEPT = 1 << 30
_LARGE = 1 << 25


def keep_freed_memory() -> bool:
    """Makes the C library keep freed memory; returns whether it has such a setting and took it."""
    if not sys.platform.startswith("linux"):
        return False

    # C libraries other than glibc may lack the function.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGE)) and bool(mallopt(_TRIM_THRESHOLD, _KEPT))


def give_back_freed_memory() -> None:
    """Returns freed memory to the system, as far as the C library and Arrow can."""
    pa.default_memory_pool().release_unused()

    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
