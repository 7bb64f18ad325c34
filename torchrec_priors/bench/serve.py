"""Measures a service: what HTTP, batches and the cache cost or save, and latencies under load.

All figures of a table come from one run of `bench --shape serve` on one machine. They are compared
with one call at a time: `LoadedRun.answer` with one request, on one thread, without HTTP.

    bare arithmetic      the user's state, one matrix product with all items, and the best items;
                         its p99 shows how steady the machine is
    one call at a time   `load_run`, one thread, the same requests
    HTTP, 16 clients     the capacity: clients that send the next request after each answer
    HTTP, 25 % ...       random arrivals at a share of the capacity, which measure latencies

Latencies are measured without the cache, as if every request came from another user, and with it
at half of the capacity with the cache. The p99 of a median second is what most seconds have: where
a virtual machine stands still now and then, the p99 over all seconds measures that. A service
shares its cores with the process that sends the requests; the table has the CPU time of that.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torchrec_priors.bench.called import Called, Spread
from torchrec_priors.bench.http_load import Load, Measured, send_from_a_process
from torchrec_priors.bench.requests import CASES, make_run
from torchrec_priors.bench.service_process import ServiceProcess, started_service
from torchrec_priors.bench.timed import last_line, with_threads
from torchrec_priors.common.markdown import table_lines
from torchrec_priors.errors import UserError, nearest

Report = Callable[[str], None]

_PATH = "/v1/recommend"
_ONE_CALL = "one call at a time"
_CLIENTS = 16
_CONNECTIONS = 256  # of random arrivals, at most
_SHARES = (0.25, 0.5, 0.8)  # of the capacity
_RATE = 10.0  # requests per second of another measurement, which is the same on all machines
_WARM_UP = 0.5  # of the seconds of a measurement, before it
# A request that waits for longer counts as not answered.
_DEADLINE_MS = 10_000

# What is left out: each is a service of its own. The last one is measured under random arrivals.
_VARIANTS = {
    "batches, cache": (),
    "no batches, cache": ("--batch", "1"),
    "no batches, no cache": ("--batch", "1", "--cache-mb", "0"),
    "batches, no cache": ("--cache-mb", "0"),
}
_UNDER_LOAD = "batches, no cache"
_DEFAULT = "batches, cache"
_HALF = 0.5


@dataclass(frozen=True)
class Served:
    """A line of the table.

    Attributes:
        variant: what was measured.
        per_second: answers per second.
        ratio: the same, relative to one call at a time.
        p50, p95, p99: latencies in seconds; None if they were not measured.
        p99_second: the p99 of a median second, in seconds; None if it was not measured.
        failed: the share of requests without an answer of status 200.
        peak_bytes: the peak memory of the process so far; None if it was not measured.
        load_cpu: the CPU time of the process that sends the requests, as a share of one core.
    """

    variant: str
    per_second: float
    ratio: float
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    p99_second: float | None = None
    failed: float = 0.0
    peak_bytes: int | None = None
    load_cpu: float | None = None


@dataclass(frozen=True)
class ServiceBench:
    """A measured service.

    Attributes:
        name: the run or the case.
        items, heads, users: the sizes of the run, and the number of users whose requests are sent.
        rows: the measurements.
    """

    name: str
    items: int
    heads: int
    users: int
    rows: list[Served]


def check_case(case: str) -> None:
    """Raises UserError if the case does not exist."""
    if case not in CASES:
        raise UserError(f"--case: there is no case '{case}': {nearest(case, list(CASES))}")


def measure(
    run: Path | None, case: str, seconds: float, repeats: int, threads: int, report: Report
) -> ServiceBench:
    """Measures the service of a run, or of a case whose run is made first.

    Args:
        run: the folder of a trained run; None for the case.
        case: one of `requests.CASES`.
        seconds: the seconds of each measurement over HTTP.
        repeats: how often each request is called without HTTP.
        threads: the threads of the service.
        report: is called with the name of the current measurement.
    """
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        name = case
        if run is None:
            report(f"serve: {case}: run")
            make_run(CASES[case], folder)
            run = folder / "run"
        else:
            name = run.absolute().name

        report(f"serve: {name}: {_ONE_CALL}")
        bodies = folder / "bodies"
        called = _called(run, bodies, repeats)
        call_s = called.call.mean
        rows = [
            _alone("bare arithmetic", called.bare, call_s),
            replace(_alone(_ONE_CALL, called.call, call_s), peak_bytes=called.peak_bytes),
        ]
        for variant, options in _VARIANTS.items():
            report(f"serve: {name}: {variant}")
            given = [*options, "--deadline-ms", str(_DEADLINE_MS)]
            with started_service(run, given, threads) as service:
                measuring = _Measuring(service, bodies, seconds, call_s)
                capacity = measuring.closed(f"HTTP, {_CLIENTS} clients: {variant}")
                rows.append(capacity)
                if variant == _DEFAULT and capacity.per_second > 0:
                    report(f"serve: {name}: {_HALF:.0%}, cache")
                    half = _HALF * capacity.per_second
                    rows.append(measuring.open(f"HTTP, {_HALF:.0%}, cache", half))
                if variant == _UNDER_LOAD and capacity.per_second > 0:
                    for share in _SHARES:
                        report(f"serve: {name}: {share:.0%}")
                        rows.append(
                            measuring.open(f"HTTP, {share:.0%}", share * capacity.per_second)
                        )
                    report(f"serve: {name}: {_RATE:.0f} per second")
                    rows.append(measuring.open(f"HTTP, {_RATE:.0f} per second", _RATE))
    return ServiceBench(name, called.items, called.heads, called.users, rows)


class _Measuring:
    """Sends loads to a service that was started."""

    def __init__(
        self, service: ServiceProcess, bodies: Path, seconds: float, call_s: float
    ) -> None:
        self._service = service
        self._bodies = bodies
        self._seconds = seconds
        self._call_s = call_s

    def closed(self, variant: str) -> Served:
        """Measures the capacity."""
        return self._row(variant, self._send(clients=_CLIENTS))

    def open(self, variant: str, rate: float) -> Served:
        """Measures latencies at a rate."""
        return self._row(variant, self._send(clients=_CONNECTIONS, rate=rate))

    def _send(self, clients: int, rate: float = 0.0) -> Measured:
        load = Load(
            port=self._service.port,
            path=_PATH,
            seconds=self._seconds,
            rate=rate,
            clients=clients,
            warm_up=_WARM_UP * self._seconds,
        )
        return send_from_a_process(load, self._bodies)

    def _row(self, variant: str, measured: Measured) -> Served:
        sent = sum(measured.statuses.values()) + measured.lost
        return Served(
            variant=variant,
            per_second=measured.per_second,
            ratio=measured.per_second * self._call_s,
            p50=measured.p50,
            p95=measured.p95,
            p99=measured.p99,
            p99_second=measured.p99_second,
            failed=1 - measured.answered / sent if sent else 0.0,
            peak_bytes=self._service.peak_bytes(),
            load_cpu=measured.cpu_share,
        )


def _alone(variant: str, seconds: Spread, call_s: float) -> Served:
    """Returns the line of what was timed without HTTP; `call_s` is the mean time of a call."""
    ratio = call_s / seconds.mean
    return Served(variant, 1 / seconds.mean, ratio, seconds.p50, seconds.p95, seconds.p99)


def _called(run: Path, bodies: Path, repeats: int) -> Called:
    """Times calls in a separate process, and writes the bodies of requests."""
    command = [sys.executable, "-m", "torchrec_priors.bench.called"]
    command += [str(run), str(bodies), str(repeats)]
    return Called.read(last_line(_ONE_CALL, command, with_threads(1)))


def table(measured: ServiceBench) -> str:
    """Writes a table in Markdown."""
    head = (
        "variant",
        "requests/s",
        "of one call at a time",
        "p50",
        "p95",
        "p99",
        "p99, median second",
        "not answered",
        "peak memory",
        "CPU of the load",
    )
    title = (
        f"# serve: {measured.name} ({measured.items:,} items, {measured.heads:,} heads, "
        f"{measured.users:,} users)"
    )
    return "\n".join([title, "", *table_lines(head, [_cells(row) for row in measured.rows])])


def as_json(measured: ServiceBench, machine: dict[str, Any]) -> str:
    """Writes the measurements and a description of the machine as JSON."""
    return json.dumps({**asdict(measured), "machine": machine}, indent=1)


def _cells(row: Served) -> list[str]:
    """Writes the cells of a line."""
    latencies = [
        "" if value is None else f"{value * 1e3:.1f} ms"
        for value in (row.p50, row.p95, row.p99, row.p99_second)
    ]
    return [
        row.variant,
        f"{row.per_second:,.1f}",
        f"{row.ratio:.2f}",
        *latencies,
        f"{row.failed:.1%}",
        "" if row.peak_bytes is None else f"{row.peak_bytes / 1e9:.2f} GB",
        "" if row.load_cpu is None else f"{row.load_cpu:.0%}",
    ]
