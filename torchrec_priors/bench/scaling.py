"""Weak scaling: one rank and two, a thread each, with as many sequences a rank, on the log and model of `merrec`.

What is lost has two causes: cores that share memory and caches, which two runs side by side show that know nothing of
one another, and what ranks tell one another and wait for.
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
_FEW = 1_000
_WORKER = "torchrec_priors.bench.worker"


def scaling_rows(folder: Path, repeats: int, report: Report) -> list[Row]:
    """`speedup` is that of tokens a second, `memory_ratio` that of a rank's peak, both beside one rank's. The runs with
    few items are there for their memory: a rank's peak should be theirs and its part of the table."""
    shape = SHAPES["merrec"]
    rows = []
    for items in (shape.items, _FEW):
        named = "" if items == shape.items else f", {items:,} items"
        one, more = (
            _workload(
                replace(shape, items=items, sequences=ranks * shape.sequences), folder, repeats
            )
            for ranks in (1, _RANKS)
        )
        alone = partial(in_a_process, "1 rank", _WORKER, one, 1)
        both = partial(on_ranks, _RANKS, f"{_RANKS} ranks", _WORKER, more, 1)
        variants = {"1 rank": partial(together, [alone]), f"{_RANKS} ranks": both}
        if not named:
            variants[f"{_RANKS} runs of 1 rank side by side"] = partial(together, [alone] * _RANKS)
        for name, run in variants.items():
            report(f"scaling: {name}{named}")
            rows.append(Row.of("scaling", f"{name}{named}", run()))
    return [_beside(row, rows[0]) for row in rows]


def _workload(shape: Shape, folder: Path, repeats: int) -> list[str]:
    """Arguments of the worker for a log of so many sequences and items."""
    place = folder / f"{shape.sequences}-{shape.items}"
    make_workload(shape, place)
    return [
        shape.name,
        "ours",
        str(place),
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
