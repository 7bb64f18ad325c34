"""Measures how much slower work is beside other busy processes, as ratios in one run.

Each kind of work is measured in a process of its own: alone, beside one busy loop and beside two,
and each of these with several threads and with one. All six take turns, so that whatever else the
machine does affects all of them alike. The threads wait as those of the apps do (see
`common/waiting.py`).
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from torchrec_priors.bench import retrieval, training
from torchrec_priors.bench.busy_loops import busy_loops
from torchrec_priors.bench.requests import CASES, Case, make_run
from torchrec_priors.bench.shapes import SHAPES, Shape
from torchrec_priors.bench.timed import last_line, print_result, with_threads
from torchrec_priors.bench.workload import make_workload
from torchrec_priors.common.library_warnings import silence_library_warnings
from torchrec_priors.common.markdown import table_lines
from torchrec_priors.metrics.evaluation import evaluate
from torchrec_priors.serving.run import Answer, Request, UserContext, load_run

Report = Callable[[str], None]
Run = Callable[[], object]

_LOOPS = (0, 1, 2)  # busy loops beside the work
_K = 10
_SEARCH = replace(SHAPES["retrieval"], sequences=64)


@dataclass(frozen=True)
class Sizes:
    """The sizes of what is measured.

    Attributes:
        step: the shape of the training step.
        search: the shape of the search.
        requests: the run that is evaluated, and whose requests are answered.
    """

    step: Shape = SHAPES["merrec"]
    search: Shape = _SEARCH
    requests: Case = CASES["45 heads"]


@dataclass(frozen=True)
class Contended:
    """What one kind of work takes with some threads.

    Attributes:
        work: the kind of work.
        threads: the number of threads.
        alone_s: the median seconds of a repeat, without busy loops.
        beside: for one busy loop and for two, the median seconds of a repeat as a multiple of
            `alone_s`.
        load: the load of the machine before the measurement.
    """

    work: str
    threads: int
    alone_s: float
    beside: list[float]
    load: float


def measure(
    repeats: int, threads: int, report: Report, works: list[str] | None = None
) -> list[Contended]:
    """Measures each kind of work in a separate process.

    Args:
        repeats: the repeats of each of the measurements that take turns.
        threads: the most threads.
        report: is called with the name of the current measurement.
        works: the kinds of work; None for all.
    """
    rows: list[Contended] = []
    for work in works or list(WORKS):
        report(f"contention: {work}")
        command = [sys.executable, "-m", __name__, work, str(repeats), "--threads", str(threads)]
        measured = json.loads(last_line(work, command, with_threads(threads)))
        rows += [Contended(**row) for row in measured["rows"]]
    return rows


@dataclass(frozen=True)
class Measured:
    """The rows of one kind of work."""

    rows: list[Contended]


def measure_here(work: str, sizes: Sizes, repeats: int, threads: int) -> Measured:
    """Measures one kind of work in this process, with `threads` threads and with one.

    Args:
        work: one of `WORKS`.
        sizes: the sizes of the work.
        repeats: how often each number of threads is measured beside each number of busy loops.
        threads: the most threads.
    """
    load = os.getloadavg()[0]
    counts = sorted({threads, 1}, reverse=True)
    seconds: dict[tuple[int, int], list[float]] = {}
    before = torch.get_num_threads()
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        WORKS[work](sizes, Path(folder)) as run,
    ):
        # The first call does what is done only once.
        for count in counts:
            _seconds_of(run, count)
        for _ in range(repeats):
            for loops in _LOOPS:
                with busy_loops(loops):
                    for count in counts:
                        seconds.setdefault((count, loops), []).append(_seconds_of(run, count))
    torch.set_num_threads(before)
    return Measured([_row(work, count, seconds, load) for count in counts])


def _seconds_of(run: Run, threads: int) -> float:
    """Returns the seconds of a call with some threads."""
    torch.set_num_threads(threads)
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _row(
    work: str, count: int, seconds: dict[tuple[int, int], list[float]], load: float
) -> Contended:
    """Makes the row of a number of threads."""
    alone, *beside = (statistics.median(seconds[count, loops]) for loops in _LOOPS)
    return Contended(work, count, alone, [median / alone for median in beside], load)


@contextmanager
def _training_step(sizes: Sizes, folder: Path) -> Iterator[Run]:
    make_workload(sizes.step, folder / "data")
    with training.runner(sizes.step, folder / "data", {}) as run:
        yield lambda: run(0)


@contextmanager
def _search(sizes: Sizes, folder: Path) -> Iterator[Run]:
    make_workload(sizes.search, folder / "data")
    with retrieval.runner(sizes.search, folder / "data", {}) as run:
        yield lambda: run(0)


@contextmanager
def _evaluation(sizes: Sizes, folder: Path) -> Iterator[Run]:
    make_run(sizes.requests, folder)
    with load_run(folder / "run") as run:
        yield lambda: evaluate(
            run.model,
            run.finder.index,
            run.data,
            "test",
            run.config.evaluation,
            share=run.ranks.share,
            device=run.ranks.device,
            columns=run.columns,
            total=run.ranks.total,
        )


@contextmanager
def _recommend(sizes: Sizes, folder: Path) -> Iterator[Run]:
    make_run(sizes.requests, folder)
    with load_run(folder / "run") as run:
        run.warm_up()
        users = run.data.user_texts().to_pylist()[: sizes.requests.requests]

        def one_at_a_time() -> None:
            for user in users:
                (answer,) = run.answer([Request(UserContext(user=user), _K)])
                assert isinstance(answer, Answer)

        yield one_at_a_time


# The kinds of work; a repeat is a step, a search, an evaluation of all users, or all requests.
WORKS = {
    "training step": _training_step,
    "evaluation": _evaluation,
    "search": _search,
    "recommend": _recommend,
}


def table(rows: list[Contended]) -> str:
    """Writes a table in Markdown. The last column compares threads under the same conditions."""
    head = ("work", "threads", "alone", "beside one loop", "beside two", "of one thread's time")
    single = {row.work: row for row in rows if row.threads == 1}
    lines = table_lines(head, [_cells(row, single[row.work]) for row in rows])
    load = max(row.load for row in rows)
    return "\n".join(["# contention", "", *lines, "", f"load of the machine before: {load:.1f}"])


def _cells(row: Contended, single: Contended) -> list[str]:
    """Writes the cells of a line."""
    own = [row.alone_s * ratio for ratio in (1.0, *row.beside)]
    of_one = [single.alone_s * ratio for ratio in (1.0, *single.beside)]
    shares = [f"{mine / one:.2f}" for mine, one in zip(own, of_one, strict=True)]
    slower = [f"{ratio:.1f} x" for ratio in row.beside]
    return [row.work, str(row.threads), f"{row.alone_s:.3f} s", *slower, " / ".join(shares)]


def as_json(rows: list[Contended], machine: dict[str, Any]) -> str:
    """Writes rows and a description of the machine as JSON."""
    return json.dumps({"rows": [asdict(row) for row in rows], "machine": machine}, indent=1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", choices=WORKS)
    parser.add_argument("repeats", type=int)
    parser.add_argument("--threads", type=int, required=True)
    given = parser.parse_args()

    silence_library_warnings()
    print_result(measure_here(given.work, Sizes(), given.repeats, given.threads))


if __name__ == "__main__":
    main()
