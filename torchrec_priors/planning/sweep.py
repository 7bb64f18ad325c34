"""Plans several numbers of ranks and items, for memory, time and cost."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torchrec_priors.planning.planner import DoesNotFit, TablesOnRanks, plan
from torchrec_priors.planning.request import Request


@dataclass(frozen=True)
class Point:
    """One request of a sweep.

    Attributes:
        plan: the plan of the request; if it does not fit, the plan for unlimited memory.
        fits: whether the request fits.
    """

    plan: TablesOnRanks
    fits: bool

    @property
    def memory_share(self) -> float:
        """The used and reserved share of the device's memory; above 1 if the plan does not fit."""
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
        request: the other properties of all requests.
        items: the numbers of items.
        ranks: the numbers of ranks.
        report: a function that is called with each point's description before it is planned.

    Raises:
        UserError: a request is invalid. All requests are checked before any is planned.
    """
    requests = [replace(request.with_items(rows), ranks=count) for rows in items for count in ranks]
    # Plans of many ranks take seconds, so all requests are checked first.
    for point_request in requests:
        point_request.check()

    points = []
    for point_request in requests:
        report(point_request.describe())
        points.append(_point(point_request))
    return points


def _point(request: Request) -> Point:
    """Plans one request."""
    try:
        return Point(plan(request), fits=True)
    except DoesNotFit as lack:
        return Point(lack.needed, fits=False)
