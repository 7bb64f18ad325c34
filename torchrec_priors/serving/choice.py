"""Chooses the best list in which each group has the number of items that it needs.

Items are considered from best to worst. An item is chosen if there is a list of k items that meets
the needs and contains this item and all items chosen before. If there is one group, or if groups
are disjoint or nested, the chosen list also has the largest sum of scores.

Items that are in the same groups form a cell. A cell is identified by its mask: bit g of this
number is 1 if the items are in group g.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torchrec_priors.serving.covering import Plan, smallest_plan


@dataclass(frozen=True)
class Candidate:
    """An item that may be chosen, with its score and the path that gave the score."""

    score: float
    row: int
    path: int


Cells = dict[int, list[Candidate]]  # candidates by mask, best first; by row id if scores are equal


def choose(cells: Cells, need: Sequence[int], k: int) -> tuple[list[Candidate], list[int]]:
    """Chooses the best list.

    Args:
        cells: the k best items of each cell, or all its items if there are fewer.
        need: the number of items that each group needs.
        k: the length of the list. The list is shorter if there are fewer items.

    Returns:
        The list; and for each group, the number of items that could be required. This is less than
        the group needs if too few items exist, or if earlier groups leave too few places.
    """
    # Needs are met in the order in which groups were given.
    left = {mask: len(items) for mask, items in cells.items() if items}
    met: list[int] = []
    for wanted in need:
        met.append(_most_that_fit(met, wanted, len(need) - len(met) - 1, k, left))

    # `open_need` has the needs that are not met yet. `plan` meets them with items that are left.
    open_need = tuple(met)
    plan = smallest_plan(open_need, left)
    assert plan is not None

    chosen: list[Candidate] = []
    taken = dict.fromkeys(left, 0)
    while left and len(chosen) < k:
        mask = _best_cell(cells, left, taken)
        after = {**left, mask: left[mask] - 1}
        remaining = _reduced(open_need, mask)
        next_plan = _plan_with(plan, mask, remaining, after, k - len(chosen) - 1)
        if next_plan is None:
            # The other items of this cell do not fit either, now or later.
            del left[mask]
            continue

        chosen.append(cells[mask][taken[mask]])
        taken[mask] += 1
        open_need = remaining
        plan = next_plan
        left = {mask: count for mask, count in after.items() if count}
    return chosen, met


def fewest(need: Sequence[int], left: dict[int, int]) -> float:
    """Returns the smallest number of items that meets the needs.

    It is infinite if all items together do not meet the needs.

    Args:
        need: the number of items that each group needs.
        left: the number of items in each cell, by mask.

    Example:
        >>> fewest((2, 2), {0b01: 9, 0b10: 9, 0b11: 1})
        3
    """
    plan = smallest_plan(need, left)
    return math.inf if plan is None else sum(plan.values())


def _best_cell(cells: Cells, left: dict[int, int], taken: dict[int, int]) -> int:
    """Returns the mask of the cell with the best next item; the smaller row id if scores are equal.

    Args:
        cells: the items of each cell.
        left: the number of items that are left in each cell.
        taken: the number of items that were taken from each cell.
    """

    def order(mask: int) -> tuple[float, int]:
        candidate = cells[mask][taken[mask]]
        return -candidate.score, candidate.row

    return min(left, key=order)


def _most_that_fit(
    met: list[int], wanted: int, others: int, slots: int, left: dict[int, int]
) -> int:
    """Returns how many items of the next group fit into the list, in addition to earlier groups.

    Args:
        met: the number of items of each earlier group.
        wanted: the number of items that the group needs.
        others: the number of later groups, which are not considered yet.
        slots: the length of the list.
        left: the number of items in each cell.

    Returns:
        The number of items, `wanted` at most.
    """
    # Bisection: `low` items fit, `high` items do not. `wanted` is tried first, as it usually fits.
    low = 0
    high = wanted + 1
    count = wanted
    while high - low > 1:
        if fewest((*met, count, *[0] * others), left) <= slots:
            low = count
        else:
            high = count
        count = (low + high) // 2
    return low


def _plan_with(
    plan: Plan, mask: int, need: Sequence[int], left: dict[int, int], slots: int
) -> Plan | None:
    """Returns a plan that meets the needs after an item was taken; None if no plan fits.

    Args:
        plan: the plan before the item was taken.
        mask: the cell of the item.
        need: the needs that are open after the item was taken.
        left: the number of items that are left in each cell after it was taken.
        slots: the number of places that are left in the list after it was taken.
    """
    # Usually the old plan can be continued, which saves computing a new one.
    if plan.get(mask):
        return {**plan, mask: plan[mask] - 1}
    if sum(plan.values()) <= slots:
        return plan

    smallest = smallest_plan(need, left)
    return None if smallest is None or sum(smallest.values()) > slots else smallest


def _reduced(need: tuple[int, ...], mask: int) -> tuple[int, ...]:
    """Returns the needs that are left open after an item of a cell was taken."""
    return tuple(
        max(0, count - 1) if mask >> group & 1 else count for group, count in enumerate(need)
    )
