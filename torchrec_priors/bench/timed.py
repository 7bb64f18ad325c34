"""Runs measurements in separate processes, and reads their results."""

import itertools
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, TypeVar

from torchrec_priors.bench.on_ranks import last_lines

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Result = TypeVar("Result")


@dataclass(frozen=True)
class Timed:
    """The measurements of one variant.

    Attributes:
        seconds: the duration of each repeat, without the warm-up.
        results: a number for the result of each repeat, including the warm-up: the loss of a
            training step, or a checksum.
        peak_bytes: the peak memory of the process.
        tokens: the number of positions that predict in a step; for a search, the number of users.
        flops: the unavoidable FLOPs of a repeat; 0 if they were not counted.
        rates: the FLOP/s of matrix products beside each repeat; none if they were not measured.
        extra_bytes: the bytes that the repeats have added to the peak of the process.
        forward: the seconds of forward in each repeat, if forward and backward are measured
            separately.
        sent_bytes: the bytes that are sent to other ranks by all-to-all in a repeat; 0 if they were
            not counted.
    """

    seconds: list[float]
    results: list[float]
    peak_bytes: int
    tokens: int
    flops: float = 0.0
    rates: list[float] = field(default_factory=list)
    extra_bytes: int = 0
    forward: list[float] = field(default_factory=list)
    sent_bytes: int = 0


def repeat(run: Callable[[int], float], repeats: int) -> tuple[list[float], list[float]]:
    """Returns the seconds of each repeat, and all results.

    The repeats follow a warm-up, which does everything that is done only once. Its seconds are left
    out, but its result is included.
    """
    seconds, results, _ = repeat_beside(run, repeats, lambda: 0.0)
    return seconds, results


def repeat_beside(
    run: Callable[[int], float], repeats: int, rate: Callable[[], float]
) -> tuple[list[float], list[float], list[float]]:
    """Returns the seconds of each repeat, all results, and a rate beside each repeat.

    The speed of a machine that others use, too, changes from second to second. So the rate is
    measured before and after each repeat, and the mean counts.
    """
    results = [run(0)]  # the warm-up
    seconds = []
    moments = []
    for number in range(1, repeats + 1):
        moments.append(rate())
        started = time.perf_counter()
        results.append(run(number))
        seconds.append(time.perf_counter() - started)
    moments.append(rate())

    return seconds, results, [sum(pair) / 2 for pair in itertools.pairwise(moments)]


def peak_bytes() -> int:
    """Returns the peak memory of this process, including interpreter, libraries and table."""
    # Linux counts in KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def print_result(result: "DataclassInstance") -> None:
    """Prints a result as the line that `in_a_process` and `results_of_ranks` read."""
    print(json.dumps(asdict(result)))  # noqa: T201


def in_a_process(
    name: str,
    module: str,
    arguments: Sequence[str],
    threads: int,
    environment: Mapping[str, str] | None = None,
) -> Timed:
    """Runs a measurement in a separate process.

    Args:
        name: the name of the measurement, for the error message.
        module: the module that measures and prints a `Timed`.
        arguments: the command-line arguments of the module.
        threads: the number of threads of the process.
        environment: additional environment variables.

    Raises:
        RuntimeError: the process failed.
    """
    command = [sys.executable, "-m", module, *arguments, "--threads", str(threads)]
    variables = {**with_threads(threads), **(environment or {})}
    return Timed(**json.loads(last_line(name, command, variables)))


def with_threads(threads: int) -> dict[str, str]:
    """Returns the environment variables of a process with a number of threads."""
    return {**os.environ, "OMP_NUM_THREADS": str(threads)}


def last_line(name: str, command: Sequence[str], environment: Mapping[str, str]) -> str:
    """Runs a command, and returns the last line that it prints.

    Args:
        name: the name of the measurement, for the error message.
        command: the command.
        environment: all environment variables.

    Raises:
        RuntimeError: the command failed.
    """
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    # Libraries may print lines before the result.
    return done.stdout.strip().splitlines()[-1]


def results_of_ranks(
    kind: Callable[..., Result],
    ranks: int,
    name: str,
    module: str,
    arguments: Sequence[str],
    threads: int,
) -> list[Result]:
    """Runs a measurement on several ranks, and returns the result of each rank.

    Args:
        kind: the class of the results that the module prints.
        ranks, name, module, arguments, threads: as for `last_lines`.

    Raises:
        RuntimeError: a rank failed.
    """
    lines = last_lines(ranks, name, module, arguments, threads)
    return [kind(**json.loads(line)) for line in lines]


def on_ranks(ranks: int, name: str, module: str, arguments: Sequence[str], threads: int) -> Timed:
    """Runs a measurement on several ranks, and combines their results.

    Time and memory are those of the worst rank. Tokens are summed over all ranks.
    """
    arguments = [*arguments, "--threads", str(threads)]
    return _combined(results_of_ranks(Timed, ranks, name, module, arguments, threads))


def together(runs: Sequence[Callable[[], Timed]]) -> Timed:
    """Runs several measurements at the same time, and combines the results as `on_ranks` does."""
    with ThreadPoolExecutor(len(runs)) as pool:
        futures = [pool.submit(run) for run in runs]
        return _combined([future.result() for future in futures])


def _combined(parts: Sequence[Timed]) -> Timed:
    """Combines the measurements of ranks or of simultaneous runs."""
    # A repeat ends with its slowest part. All parts have the same results.
    return Timed(
        seconds=[max(seconds) for seconds in zip(*(part.seconds for part in parts), strict=True)],
        results=parts[0].results,
        peak_bytes=max(part.peak_bytes for part in parts),
        tokens=sum(part.tokens for part in parts),
        flops=sum(part.flops for part in parts),
        rates=[sum(rates) for rates in zip(*(part.rates for part in parts), strict=True)],
        extra_bytes=max(part.extra_bytes for part in parts),
        forward=[max(seconds) for seconds in zip(*(part.forward for part in parts), strict=True)],
        sent_bytes=max(part.sent_bytes for part in parts),
    )
