"""A histogram of seconds that one thread fills.

Prometheus' own takes locks, which every request would pay for several times.
"""

from bisect import bisect_left

from prometheus_client.utils import floatToGoString

# Upper bounds. Longer times are counted, too.
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Seconds:
    """Counts times by their size. Another thread may read it meanwhile.

    Attributes:
        sum: the sum of all times.
    """

    def __init__(self) -> None:
        self.sum = 0.0
        self._counts = [0] * (len(BOUNDS) + 1)

    def observe(self, seconds: float) -> None:
        """Counts a time."""
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds

    @property
    def buckets(self) -> list[tuple[str, float]]:
        """How many times are at most each bound, in Prometheus' form."""
        total = 0
        buckets: list[tuple[str, float]] = []
        for bound, count in zip((*BOUNDS, float("inf")), self._counts, strict=True):
            total += count
            buckets.append((floatToGoString(bound), total))
        return buckets
