"""What a variant's process measures, and reports to the process that started it."""

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
    """Repeats of one variant.

    Attributes:
        seconds: duration of each repeat; one more was made before them.
        results: a number for the outcome of each, including the first: losses of training steps,
            checksums of what was found.
        peak_bytes: peak memory of the process.
        tokens: positions that predict in a step; users, for retrieval.
        flops: minimum compute of a repeat; 0 if it was not counted.
        rate: matrix products in FLOP/s, measured after the repeats; 0 if it was not.
        extra_bytes: bytes by which the repeats raised the process's peak.
        forward: seconds of each repeat's first part, if a repeat has two.
        sent_bytes: sent to other ranks by all-to-all in a repeat; 0 if they were not counted.
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
    """Returns the seconds of each repeat, and all results.

    One more run goes before, which makes what is made only once; its seconds are left out.
    """
    seconds = []
    results = []
    for number in range(repeats + 1):
        started = time.perf_counter()
        results.append(run(number))
        seconds.append(time.perf_counter() - started)
    return seconds[1:], results


def peak_bytes() -> int:
    """Returns the peak of this process: interpreter, libraries and table included."""
    # Linux counts in KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def print_result(result: "DataclassInstance") -> None:
    """Prints what `in_a_process` and `results_of_ranks` read."""
    print(json.dumps(asdict(result)))  # noqa: T201


def in_a_process(
    name: str,
    module: str,
    arguments: Sequence[str],
    threads: int,
    environment: Mapping[str, str] | None = None,
) -> Timed:
    """Runs a module that measures, in a process of its own.

    Args:
        name: what is measured, for the error's message.
        module: module that prints its `Timed`.
        arguments: command-line arguments of the module.
        threads: number of threads of the process.
        environment: further environment variables.

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
    # Libraries may print, too; the result is the last line.
    return Timed(**json.loads(done.stdout.strip().splitlines()[-1]))


def results_of_ranks(
    kind: Callable[..., Result],
    ranks: int,
    name: str,
    module: str,
    arguments: Sequence[str],
    threads: int,
) -> list[Result]:
    """Runs a module that measures on several ranks, and returns the result of each.

    Args:
        kind: class of the results, which the module gives to `print_result`.
        ranks, name, module, arguments, threads: as for `last_lines`.

    Raises:
        RuntimeError: a rank failed.
    """
    lines = last_lines(ranks, name, module, arguments, threads)
    return [kind(**json.loads(line)) for line in lines]


def on_ranks(ranks: int, name: str, module: str, arguments: Sequence[str], threads: int) -> Timed:
    """Measures as `in_a_process`, on several ranks.

    The time is the slowest rank's, the memory the largest one's; tokens are those of all.
    """
    arguments = [*arguments, "--threads", str(threads)]
    return _of_all(results_of_ranks(Timed, ranks, name, module, arguments, threads))


def together(runs: Sequence[Callable[[], Timed]]) -> Timed:
    """Measures several independent runs at the same time; the result is as of `on_ranks`."""
    with ThreadPoolExecutor(len(runs)) as pool:
        futures = [pool.submit(run) for run in runs]
        return _of_all([future.result() for future in futures])


def _of_all(parts: Sequence[Timed]) -> Timed:
    # A repeat ends with its slowest part; all have the same results.
    return Timed(
        seconds=[max(seconds) for seconds in zip(*(part.seconds for part in parts), strict=True)],
        results=parts[0].results,
        peak_bytes=max(part.peak_bytes for part in parts),
        tokens=sum(part.tokens for part in parts),
        flops=sum(part.flops for part in parts),
        rate=sum(part.rate for part in parts),
        extra_bytes=max(part.extra_bytes for part in parts),
        forward=[max(seconds) for seconds in zip(*(part.forward for part in parts), strict=True)],
        sent_bytes=max(part.sent_bytes for part in parts),
    )
