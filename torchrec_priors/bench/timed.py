"""What a variant's process measures, and reports to the process that asked for it."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field

from torchrec_priors.bench.on_ranks import last_lines


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
        forward: seconds of each repeat's first part, where a repeat has two.
        sent_bytes: to other ranks by all-to-all in a repeat; 0 where it was not counted.
    """

    seconds: list[float]
    results: list[float]
    peak_bytes: int
    tokens: int
    flops: float = 0.0
    rate: float = 0.0
    extra_bytes: int = 0
    forward: list[float] = field(default_factory=list)
    sent_bytes: int = 0


def repeat(run: Callable[[int], float], repeats: int) -> tuple[list[float], list[float]]:
    """Seconds of each repeat, and the results; one goes before, which makes what is made once."""
    seconds = []
    results = []
    for number in range(repeats + 1):
        started = time.perf_counter()
        results.append(run(number))
        seconds.append(time.perf_counter() - started)
    return seconds[1:], results


def peak_bytes() -> int:
    """Of this process: the interpreter, its libraries and the table included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def tell(timed: Timed) -> None:
    """Prints what `in_a_process` reads."""
    print(json.dumps(asdict(timed)))  # noqa: T201


def in_a_process(
    name: str,
    module: str,
    arguments: Sequence[str],
    threads: int,
    environment: Mapping[str, str] | None = None,
) -> Timed:
    """What a module tells that measures in a process of its own.

    Args:
        name: of what is measured, should it fail.

    Raises:
        RuntimeError: it failed.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments, "--threads", str(threads)],
        env={**os.environ, "OMP_NUM_THREADS": str(threads), **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{name}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return Timed(**json.loads(done.stdout.strip().splitlines()[-1]))


def on_ranks(ranks: int, name: str, module: str, arguments: Sequence[str], threads: int) -> Timed:
    """The same by so many processes that are one another's ranks: the slowest one's time, the largest one's memory,
    tokens of all."""
    lines = last_lines(ranks, name, module, [*arguments, "--threads", str(threads)], threads)
    return _of_all([Timed(**json.loads(line)) for line in lines])


def together(runs: Sequence[Callable[[], Timed]]) -> Timed:
    """The same of runs that know nothing of one another, at the same time."""
    with ThreadPoolExecutor(len(runs)) as pool:
        return _of_all([run.result() for run in [pool.submit(run) for run in runs]])


def _of_all(each: Sequence[Timed]) -> Timed:
    return Timed(
        [max(seconds) for seconds in zip(*(timed.seconds for timed in each), strict=True)],
        each[0].results,
        max(timed.peak_bytes for timed in each),
        sum(timed.tokens for timed in each),
        sum(timed.flops for timed in each),
        sum(timed.rate for timed in each),
        max(timed.extra_bytes for timed in each),
        [max(seconds) for seconds in zip(*(timed.forward for timed in each), strict=True)],
        max(timed.sent_bytes for timed in each),
    )
