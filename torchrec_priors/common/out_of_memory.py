"""Memory that has run out, as one line. What a setting needs is estimated before it is made; this is for the rest."""

import re

from torchrec_priors.errors import OutsideError

# How torch says it, in a RuntimeError.
_WORDS = ("DefaultCPUAllocator: can't allocate memory", "out of memory")


def out_of_memory(error: Exception) -> OutsideError | None:
    """The error that says it; None where `error` is something else.

    >>> out_of_memory(MemoryError("Unable to allocate 7.45 TiB for an array")).args[0][:45]
    'memory has run out (7.45 TiB were asked for):'
    """
    text = " ".join(str(error).split())
    of_torch = isinstance(error, RuntimeError) and any(words in text for words in _WORDS)
    if not isinstance(error, MemoryError) and not of_torch:
        return None
    wanted = re.search(r"allocate ([0-9.]+ ?(?:[KMGTPE]?i?B|bytes))", text)
    how_much = f" ({wanted[1]} were asked for)" if wanted else ""
    return OutsideError(
        f"memory has run out{how_much}: give smaller settings (training.batch, model.context, model.dim, --memory),"
        " use more ranks, or free some memory"
    )
