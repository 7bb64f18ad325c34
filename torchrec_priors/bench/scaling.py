"""Measures weak scaling: one rank and two ranks, with the same number of sequences per rank.

Each rank has one thread. Log and model are those of `merrec`. Two ranks take longer than one, for
two reasons. Cores share memory and caches; two independent runs at the same time show this effect.
And ranks send data and wait for each other.
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
_FEW = 1_000  # items of a small catalogue
_WORKER = "torchrec_priors.bench.worker"


def scaling_rows(folder: Path, repeats: int, report: Report) -> list[Row]:
    """Measures one rank, several ranks, and several independent runs.

    `speedup` compares tokens per second and `memory_ratio` the peak of a rank, both with one rank.
    The runs with few items are there for the memory: with the whole catalogue, a rank's peak should
    be their peak plus the rank's part of the table.
    """
    shape = SHAPES["merrec"]
    rows = []
    for items in (shape.items, _FEW):
        suffix = "" if items == shape.items else f", {items:,} items"
        small = replace(shape, items=items)
        large = replace(shape, items=items, sequences=_RANKS * shape.sequences)
        small_arguments = _worker_arguments(small, folder, repeats)
        large_arguments = _worker_arguments(large, folder, repeats)

        one = partial(in_a_process, "1 rank", _WORKER, small_arguments, 1)
        several = partial(on_ranks, _RANKS, f"{_RANKS} ranks", _WORKER, large_arguments, 1)
        variants = {"1 rank": partial(together, [one]), f"{_RANKS} ranks": several}
        # Independent runs show how much cores slow each other down. Once is enough.
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
    """Returns the row with ratios to the first one."""
    return replace(
        row,
        speedup=row.tokens_per_s / first.tokens_per_s,
        memory_ratio=row.peak_bytes / first.peak_bytes,
    )
