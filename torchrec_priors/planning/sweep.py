"""Memory, time and cost for several numbers of ranks and of items."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torchrec_priors.planning.planner import DoesNotFit, TablesOnRanks, plan
from torchrec_priors.planning.request import Request


@dataclass(frozen=True)
class Point:
    """One request of a sweep.

    Attributes:
        plan: its plan; if it does not fit, the one that unlimited memory would allow.
        fits: whether it fits.
    """

    plan: TablesOnRanks
    fits: bool

    @property
    def memory_share(self) -> float:
        """Share of the device's memory, reserved memory included: above 1 if it does not fit."""
        memory = self.plan.fullest
        return (memory.used + memory.reserved) / self.plan.request.machine.memory


def sweep(
    request: Request,
    items: Sequence[int],
    ranks: Sequence[int],
    report: Callable[[str], None] = lambda _: None,
) -> list[Point]:
    """Plans all numbers of items with all numbers of ranks.

    Args:
        request: what is planned; its numbers of items and ranks are replaced.
        items: numbers of items.
        ranks: numbers of ranks.
        report: called with each point before it is planned.

    Raises:
        UserError: a number of ranks is not a whole number of nodes; raised before any planning.
    """
    requests = [replace(request.with_items(rows), ranks=count) for rows in items for count in ranks]
    # All are checked before the first is planned, which takes seconds for many ranks.
    for point_request in requests:
        point_request.check()

    points = []
    for point_request in requests:
        report(point_request.describe())
        points.append(_point(point_request))
    return points


def _point(request: Request) -> Point:
    try:
        return Point(plan(request), fits=True)
    except DoesNotFit as lack:
        return Point(lack.needed, fits=False)
