"""Weak scaling: one rank and two, a thread each, with the same number of sequences per rank.

Log and model are those of `merrec`. What is lost has two causes: cores share memory and caches,
which two independent runs at the same time show, and ranks send and wait for each other's data.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from torchrec_priors.bench.rows import Row
from torchrec_priors.bench.shapes import SHAPES, Shape
from torchrec_priors.bench.timed import in_a_process, on_ranks, together
from torchrec_priors.bench.workload import make_workload

Report = Callable[[str], None]

_RANKS = 2
_FEW = 1_000  # items
_WORKER = "torchrec_priors.bench.worker"


def scaling_rows(folder: Path, repeats: int, report: Report) -> list[Row]:
    """Measures one rank, several, and several independent runs.

    `speedup` is of tokens per second, `memory_ratio` of a rank's peak, both relative to one rank.
    The runs with few items show memory: a rank's peak should be theirs plus its part of the table.
    """
    shape = SHAPES["merrec"]
    rows = []
    for items in (shape.items, _FEW):
        suffix = "" if items == shape.items else f", {items:,} items"
        small = replace(shape, items=items)
        large = replace(shape, items=items, sequences=_RANKS * shape.sequences)
        of_one = _worker_arguments(small, folder, repeats)
        of_several = _worker_arguments(large, folder, repeats)

        one = partial(in_a_process, "1 rank", _WORKER, of_one, 1)
        several = partial(on_ranks, _RANKS, f"{_RANKS} ranks", _WORKER, of_several, 1)
        variants = {"1 rank": partial(together, [one]), f"{_RANKS} ranks": several}
        # Independent runs show what cores take from each other; measuring that once is enough.
        if items == shape.items:
            name = f"{_RANKS} runs of 1 rank side by side"
            variants[name] = partial(together, [one] * _RANKS)

        for name, run in variants.items():
            report(f"scaling: {name}{suffix}")
            rows.append(Row.of("scaling", f"{name}{suffix}", run()))
    return [_beside(row, rows[0]) for row in rows]


def _worker_arguments(shape: Shape, folder: Path, repeats: int) -> list[str]:
    """Makes the log of a shape, and returns the worker's arguments for it."""
    data = folder / f"{shape.sequences}-{shape.items}"
    make_workload(shape, data)
    return [
        shape.name,
        "ours",
        str(data),
        "--sequences",
        str(shape.sequences),
        "--repeats",
        str(repeats),
    ]


def _beside(row: Row, first: Row) -> Row:
    return replace(
        row,
        speedup=row.tokens_per_s / first.tokens_per_s,
        memory_ratio=row.peak_bytes / first.peak_bytes,
    )
