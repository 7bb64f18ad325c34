"""Decides when freed memory goes back to the system.

glibc returns large blocks to the system as soon as they are free. A training step creates hundreds
of tensors of a few megabytes, and a batch of requests dozens, so the system would have to provide
every page again each time. That takes as long as computing the values that are written to the
pages. So training and the service keep freed memory.

The columns of a large catalogue, on the other hand, are read only once. If their memory were kept,
it would be occupied for the whole run, in addition to the table.
"""

import ctypes
import sys

import pyarrow as pa

# Parameters of glibc's mallopt, from malloc.h.
_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3
_MMAP_MAX = -4

_KEPT = 1 << 30  # bytes that are kept at the end of the heap
# Larger blocks, in bytes, go back to the system, unless all blocks are in the heap. glibc does not
# allow a higher limit.
_LARGE = 1 << 25


def keep_freed_memory(of_any_size: bool = False) -> bool:
    """Makes the C library keep freed memory; returns whether the C library supports this.

    Args:
        of_any_size: whether blocks of 32 MB and more are kept, too. That is for training, in which
            every step needs the same blocks. A service that replaces its catalogue gives the old
            one back.
    """
    if not sys.platform.startswith("linux"):
        return False

    # C libraries other than glibc may lack the function.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    kept = bool(mallopt(_MMAP_THRESHOLD, _LARGE)) and bool(mallopt(_TRIM_THRESHOLD, _KEPT))
    if of_any_size:
        kept = kept and bool(mallopt(_MMAP_MAX, 0))
    return kept


def give_back_freed_memory() -> None:
    """Makes the C library and Arrow give freed memory back to the system, if they can."""
    pa.default_memory_pool().release_unused()

    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
