"""Makes PyTorch use one thread for the calls of this Python thread, and of no other.

`torch.set_num_threads` also sets the number of threads of MKL, for all threads of the process. Here
the numbers of the calling thread are set, in OpenMP and in MKL, so that several threads can compute
at the same time.
"""

import ctypes
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Any

import torch

# Without these functions threads take turns, as the number of one thread would be that of all.
_TURNS = RLock()


@contextmanager
def single_thread() -> Iterator[None]:
    """Makes PyTorch use one thread within the block, in the calling thread."""
    # PyTorch sets the number of a thread when the thread first asks for it, so it must ask before.
    threads = torch.get_num_threads()
    library = _library()
    if library is None:
        with _TURNS:
            torch.set_num_threads(1)
            try:
                yield
            finally:
                torch.set_num_threads(threads)
        return

    library.omp_set_num_threads(1)
    mkl_threads = library.MKL_Set_Num_Threads_Local(1)
    try:
        yield
    finally:
        library.MKL_Set_Num_Threads_Local(mkl_threads)
        library.omp_set_num_threads(threads)


def is_own() -> bool:
    """Returns whether each Python thread has a number of its own, so that they need no turns."""
    return _library() is not None


@functools.cache
def _library() -> Any:
    """Returns PyTorch's library if it has OpenMP and MKL; otherwise None."""
    # MKL also has this function with small letters, for Fortran: it takes the address of a number.
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        for name in ("omp_set_num_threads", "MKL_Set_Num_Threads_Local"):
            getattr(library, name)
    except (OSError, AttributeError):
        return None
    return library
