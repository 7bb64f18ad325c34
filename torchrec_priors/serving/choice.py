"""The best list in which given groups have their least numbers of items.

Of all lists of k items that have them, it is the first in the order of a dictionary: the best item is passed over only
where no list with it can have them, then the second best, and so on. For one group, and for groups that are disjoint
or inside one another, this is also the list of the largest sum of scores.

Items that are in the same groups form a cell. A set of groups is written as the bits of a number, its mask.
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
        cells: the k best items of each, or all where there are fewer.
        need: how many items of each group are asked for. Where there are not so many, or not within k beside what the
            groups before need, as many as can be.
        k: length of the list; it is shorter where there are fewer items.
    """
    left = {mask: len(items) for mask, items in cells.items() if items}
    met: list[int] = []
    for wanted in need:
        met.append(_most_that_fit(met, wanted, len(need) - len(met) - 1, k, left))
    open_need = tuple(met)
    plan = smallest_plan(open_need, left)
    assert plan is not None

    chosen: list[Candidate] = []
    place = dict.fromkeys(left, 0)
    while left and len(chosen) < k:
        best = min(
            left, key=lambda mask: (-cells[mask][place[mask]].score, cells[mask][place[mask]].row)
        )
        after = {**left, best: left[best] - 1}
        remaining = _reduced(open_need, best)
        others = _plan_with(plan, best, remaining, after, k - len(chosen) - 1)
        if others is None:
            del left[best]  # nor will any of its items ever fit again
            continue
        chosen.append(cells[best][place[best]])
        place[best] += 1
        open_need = remaining
        plan = others
        left = {mask: count for mask, count in after.items() if count}
    return chosen, met


def fewest(need: Sequence[int], left: dict[int, int]) -> float:
    """How many items meet the needs at least; infinity where all together do not.

    Args:
        left: how many items each cell has.

    Example:
        >>> fewest((2, 2), {0b01: 9, 0b10: 9, 0b11: 1})
        3
    """
    plan = smallest_plan(need, left)
    return math.inf if plan is None else sum(plan.values())


def _most_that_fit(
    met: list[int], wanted: int, others: int, slots: int, left: dict[int, int]
) -> int:
    """How many items of the next group can be had beside what the groups before it need, `wanted` at most."""
    # `low` fit, `high` do not
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
    """How the needs are met by what is left once an item of a cell is taken; None where they are not, in these slots.

    Args:
        plan: how they were met before.
        need, left, slots: after the item was taken.
    """
    if plan.get(mask):
        return {**plan, mask: plan[mask] - 1}
    if sum(plan.values()) <= slots:
        return plan
    found = smallest_plan(need, left)
    return None if found is None or sum(found.values()) > slots else found


def _reduced(need: tuple[int, ...], mask: int) -> tuple[int, ...]:
    """What is needed besides one item of a cell."""
    return tuple(
        max(0, count - 1) if mask >> group & 1 else count for group, count in enumerate(need)
    )
