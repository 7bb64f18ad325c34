"""The best list in which given groups have their least numbers of items.

Of all lists of k items that have them, it is the first in lexicographic order: the best item is
passed over only if no list with it can have them, then the second best, and so on. For one group,
and for groups that are disjoint or nested, this is also the list with the largest sum of scores.

Items that are in the same groups form a cell. A set of groups is written as the bits of a number,
its mask.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torchrec_priors.serving.covering import Plan, smallest_plan


@dataclass(frozen=True)
class Candidate:
    """An item that may be chosen."""

    score: float
    row: int
    path: int


Cells = dict[int, list[Candidate]]  # by mask; best first, ties by row


def choose(cells: Cells, need: Sequence[int], k: int) -> tuple[list[Candidate], list[int]]:
    """The best list and the needs it meets.

    Args:
        cells: the k best items of each, or all if there are fewer.
        need: how many items of each group are wanted. If that many do not exist, or do not fit into
            k in addition to what the groups before need, as many as possible.
        k: length of the list; it is shorter if there are fewer items.
    """
    left = {mask: len(items) for mask, items in cells.items() if items}
    # Groups come in the order in which they were given: the first gets its items first.
    met: list[int] = []
    for wanted in need:
        met.append(_most_that_fit(met, wanted, len(need) - len(met) - 1, k, left))

    # `plan` always says how the open needs can be met by the items that are left.
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
            # No other item of this cell will ever fit either.
            del left[mask]
            continue

        chosen.append(cells[mask][taken[mask]])
        taken[mask] += 1
        open_need = remaining
        plan = next_plan
        left = {mask: count for mask, count in after.items() if count}
    return chosen, met


def fewest(need: Sequence[int], left: dict[int, int]) -> float:
    """The smallest number of items that meets the needs; infinity if all together do not.

    Args:
        left: how many items each cell has.

    Example:
        >>> fewest((2, 2), {0b01: 9, 0b10: 9, 0b11: 1})
        3
    """
    plan = smallest_plan(need, left)
    return math.inf if plan is None else sum(plan.values())


def _best_cell(cells: Cells, left: dict[int, int], taken: dict[int, int]) -> int:
    """The cell whose next item is the best; of equal scores, the one with the smaller row."""

    def order(mask: int) -> tuple[float, int]:
        candidate = cells[mask][taken[mask]]
        return -candidate.score, candidate.row

    return min(left, key=order)


def _most_that_fit(
    met: list[int], wanted: int, others: int, slots: int, left: dict[int, int]
) -> int:
    """How many items of the next group fit with what the groups before it need, `wanted` at most.

    Args:
        others: the number of groups after it, which need nothing yet.
    """
    # Bisection: `low` items fit, `high` do not. `wanted` itself is tried first, as it mostly fits.
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
    """How the needs are met after an item of a cell was taken; None if they do not fit any more.

    Args:
        plan: how they were met before.
        need, left, slots: after the item was taken.
    """
    # The old plan mostly still holds, which saves solving for a new one.
    if plan.get(mask):
        return {**plan, mask: plan[mask] - 1}
    if sum(plan.values()) <= slots:
        return plan

    smallest = smallest_plan(need, left)
    return None if smallest is None or sum(smallest.values()) > slots else smallest


def _reduced(need: tuple[int, ...], mask: int) -> tuple[int, ...]:
    """What is needed in addition to one item of a cell."""
    return tuple(
        max(0, count - 1) if mask >> group & 1 else count for group, count in enumerate(need)
    )
