"""Counters and histograms of the service, in Prometheus' format."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from torchrec_priors.service.seconds import BOUNDS, Seconds

if TYPE_CHECKING:
    from torchrec_priors.service.parts import Parts
    from torchrec_priors.serving.kept_queries import KeptQueries

_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The metrics of a service. What is counted for each request belongs to the event loop.

    Attributes:
        queue_seconds: the time that requests waited for their batch.
        in_flight: the requests that are being answered.
        events_accepted, events_duplicate: events of users that were stored, or already were.
        state_unavailable: requests that were answered without the events of their user, as the
            store could not be read in time.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self.in_flight = 0
        self.queue_seconds = Seconds()
        self._seconds: dict[str, Seconds] = {}
        self._requests: dict[tuple[str, int], int] = {}
        self.registry.register(_OfRequests(self))

        self._compute_seconds = Histogram(
            "torchrec_priors_compute_seconds",
            "Time in which a batch was answered.",
            buckets=BOUNDS,
            registry=self.registry,
        )
        self._batch_size = Histogram(
            "torchrec_priors_batch_size",
            "Requests in a batch.",
            buckets=_SIZES,
            registry=self.registry,
        )

        events = Counter(
            "torchrec_priors_events",
            "Events of users that were posted, by outcome.",
            ["outcome"],
            registry=self.registry,
        )
        self.events_accepted = events.labels("accepted")
        self.events_duplicate = events.labels("duplicate")

        self.state_unavailable = Counter(
            "torchrec_priors_state_unavailable",
            "Requests that were answered without the stored events of their user.",
            registry=self.registry,
        )

        self._swaps = Counter(
            "torchrec_priors_swaps",
            "Changes of the version of the model, by outcome.",
            ["outcome"],
            registry=self.registry,
        )

    def request(self, route: str, status: int, seconds: float) -> None:
        """Counts a request.

        Args:
            route: its route, such as "/v1/recommend".
            status: the status of the response; 499 if the client went away before.
            seconds: the time from its first line to the response.
        """
        key = (route, status)
        self._requests[key] = self._requests.get(key, 0) + 1
        of_route = self._seconds.get(route)
        if of_route is None:
            of_route = Seconds()
            self._seconds[route] = of_route
        of_route.observe(seconds)

    def of_requests(self) -> Iterable[Metric]:
        """Yields what is counted for each request."""
        requests = CounterMetricFamily(
            "torchrec_priors_requests", "Requests by route and status.", labels=["route", "status"]
        )
        for (route, status), count in self._requests.copy().items():
            requests.add_metric([route, str(status)], count)
        yield requests

        seconds = HistogramMetricFamily(
            "torchrec_priors_request_seconds",
            "Time from the first line of a request to its response.",
            labels=["route"],
        )
        for route, of_route in self._seconds.copy().items():
            seconds.add_metric([route], of_route.buckets, of_route.sum)
        yield seconds

        yield HistogramMetricFamily(
            "torchrec_priors_queue_seconds",
            "Time that a request waited for its batch.",
            buckets=self.queue_seconds.buckets,
            sum_value=self.queue_seconds.sum,
        )
        yield GaugeMetricFamily(
            "torchrec_priors_requests_in_flight",
            "Requests that are being answered.",
            value=self.in_flight,
        )

    def batch(self, size: int, seconds: float) -> None:
        """Notes a batch: the number of its requests, and the seconds that they took."""
        self._batch_size.observe(size)
        self._compute_seconds.observe(seconds)

    def swap(self, outcome: str) -> None:
        """Counts a change of the version, such as "swapped", "refused" or "rolled_back"."""
        self._swaps.labels(outcome).inc()

    def watch(self, parts: "Parts") -> None:
        """Adds what the parts of the service count themselves."""
        self.registry.register(_OfParts(parts))

    def text(self) -> bytes:
        """Returns all metrics in Prometheus' format."""
        return generate_latest(self.registry)


class _OfRequests(Collector):
    """Reads what is counted for each request when the metrics are asked for."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def describe(self) -> Iterable[Metric]:
        """Returns nothing: the names do not clash with those of other collectors."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Yields the metrics."""
        return self._metrics.of_requests()


def _of_cache(kept: "KeptQueries") -> Iterable[Metric]:
    """Yields the metrics of the cache of users' states. It is a version's own."""
    found = CounterMetricFamily(
        "torchrec_priors_user_state_cache",
        "Users whose state was looked up in the cache, by outcome.",
        labels=["outcome"],
    )
    found.add_metric(["hit"], kept.hits)
    found.add_metric(["miss"], kept.misses)
    yield found
    yield GaugeMetricFamily(
        "torchrec_priors_user_state_cache_bytes", "Memory of the cache.", value=kept.nbytes
    )


class _OfParts(Collector):
    """Reads the counters of the parts when the metrics are asked for."""

    def __init__(self, parts: "Parts") -> None:
        self._parts = parts

    def describe(self) -> Iterable[Metric]:
        """Returns nothing: the names do not clash with those of other collectors."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Yields the metrics."""
        parts = self._parts
        yield GaugeMetricFamily(
            "torchrec_priors_queue_length", "Requests that wait.", value=parts.batcher.waiting
        )
        yield GaugeMetricFamily(
            "torchrec_priors_ready",
            "Whether the service answers requests: 1 or 0.",
            value=float(parts.unready is None),
        )
        model = GaugeMetricFamily(
            "torchrec_priors_model_info", "The version that answers.", labels=["model", "version"]
        )
        served = parts.versions.current
        if served is not None:
            model.add_metric([parts.model_name, served.name], 1.0)
        yield model
        if served is not None:
            yield from _of_cache(served.run.kept_queries)

        counts = CounterMetricFamily(
            "torchrec_priors_answers", "Requests to the model, by outcome.", labels=["outcome"]
        )
        of_batcher = parts.batcher.counts
        for outcome in ("late", "dropped", "failed", "refused"):
            counts.add_metric([outcome], getattr(of_batcher, outcome))
        counts.add_metric(["computed"], of_batcher.requests)
        yield counts
        yield CounterMetricFamily(
            "torchrec_priors_log_lines_dropped",
            "Lines of the log that were dropped, as stderr was read too slowly.",
            value=parts.log.lines.dropped,
        )
