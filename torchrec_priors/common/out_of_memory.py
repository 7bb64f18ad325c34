"""Turns the out-of-memory errors of libraries into messages of one line.

The largest amounts of memory are checked before they are allocated (`training/fits_memory.py`).
This module is for all other allocations.
"""

import re

from torchrec_priors.errors import OutsideError

# Words in the message of torch's RuntimeError.
_WORDS = ("DefaultCPUAllocator: can't allocate memory", "out of memory")


def out_of_memory(error: Exception) -> OutsideError | None:
    """Returns an error with a message of one line; None if `error` has another cause.

    >>> out_of_memory(MemoryError("Unable to allocate 7.45 TiB for an array")).args[0][:45]
    'memory has run out (7.45 TiB were requested):'
    """
    text = " ".join(str(error).split())
    is_of_torch = isinstance(error, RuntimeError) and any(words in text for words in _WORDS)
    if not isinstance(error, MemoryError) and not is_of_torch:
        return None

    amount = re.search(r"allocate ([0-9.]+ ?(?:[KMGTPE]?i?B|bytes))", text)
    requested = ""
    if amount is not None:
        requested = f" ({amount[1]} were requested)"
    return OutsideError(
        f"memory has run out{requested}: give smaller settings (training.batch, model.context, "
        "model.dim, --memory), use more ranks, or free some memory"
    )
