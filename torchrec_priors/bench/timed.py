"""What a variant's process reports."""

import resource
from dataclasses import dataclass


@dataclass(frozen=True)
class Timed:
    """Repeats of one variant.

    Attributes:
        seconds: of each repeat; one more went before them.
        results: a number for the outcome of each, the first included: losses of training steps, checksums of what was
            found.
        peak_bytes: of the process.
        tokens: positions that predict in a step; users, for retrieval.
        flops: unavoidable ones of a repeat; 0 where they were not counted.
        rate: matrix products in FLOP/s, measured after the repeats; 0 where it was not.
        extra_bytes: by how much the repeats raised the process's peak.
    """

    seconds: list[float]
    results: list[float]
    peak_bytes: int
    tokens: int
    flops: float = 0.0
    rate: float = 0.0
    extra_bytes: int = 0


def peak_bytes() -> int:
    """Of this process: the interpreter, its libraries and the table included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
