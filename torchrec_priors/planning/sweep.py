"""Memory, time and cost against numbers of ranks and of items."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torchrec_priors.planning.planner import DoesNotFit, TablesOnRanks, plan
from torchrec_priors.planning.request import Request


@dataclass(frozen=True)
class Point:
    """One request of a sweep; where it does not fit, its plan is what endless memory would allow."""

    plan: TablesOnRanks
    fits: bool

    @property
    def memory_share(self) -> float:
        """Of the device, with what is reserved: above 1 where it does not fit."""
        memory = self.plan.fullest
        return (memory.used + memory.reserved) / self.plan.request.machine.memory


def sweep(
    request: Request,
    items: Sequence[int],
    ranks: Sequence[int],
    report: Callable[[str], None] = lambda _: None,
) -> list[Point]:
    """All numbers of items with all numbers of ranks.

    Args:
        report: told of each point before it is planned.

    Raises:
        UserError: a number of ranks is no whole number of nodes; told before anything is planned.
    """
    requests = [replace(request.with_items(rows), ranks=count) for rows in items for count in ranks]
    for one in requests:
        one.check()
    points = []
    for one in requests:
        report(one.describe())
        points.append(_point(one))
    return points


def _point(request: Request) -> Point:
    try:
        return Point(plan(request), fits=True)
    except DoesNotFit as lack:
        return Point(lack.needed, fits=False)
