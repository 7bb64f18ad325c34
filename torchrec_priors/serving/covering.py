"""Finds the fewest items that meet the needs of overlapping groups: a small integer program.

    minimise sum_m x_m   with   sum_{m has g} x_m >= need_g for every group g,   0 <= x_m <= count_m

Items that are in the same groups form a cell m, from which x_m items are taken. The relaxation, in
which x_m may be fractions, is solved as its dual, because the dual has an obvious first solution.
If its numbers are rounded up, the solution is a plan that has at most J items more than the best
plan, one for each group. So branch and bound has few branches to try. The result is exact.

Shapes: J groups (at most 5), M cells (at most 31).
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

Plan = dict[int, int]  # the number of items to take from each cell, by mask; zeros are left out

_NEARLY = 1e-6  # differences below it are rounding errors


def smallest_plan(need: Sequence[int], left: dict[int, int]) -> Plan | None:
    """Returns a plan with the fewest items; None if all items together do not meet the needs.

    Args:
        need: the number of items that each group needs.
        left: the number of items in each cell, by mask: bit g is 1 if its items are in group g.

    Example:
        >>> smallest_plan((2, 2), {0b01: 9, 0b10: 9, 0b11: 1})
        {3: 1, 1: 1, 2: 1}
    """
    wanted = sum(1 << group for group, count in enumerate(need) if count > 0)
    cells = {mask: count for mask, count in left.items() if mask & wanted and count > 0}

    # Cells in many wanted groups come first, then smaller masks. The order is always the same, so
    # that the cache recognises equal problems.
    ordered = tuple(
        sorted(cells.items(), key=lambda cell: (-(cell[0] & wanted).bit_count(), cell[0]))
    )
    taken = _solve(tuple(need), ordered)
    if taken is None:
        return None
    return {mask: items for (mask, _), items in zip(ordered, taken, strict=True) if items}


@lru_cache(maxsize=1 << 12)
def _solve(need: tuple[int, ...], cells: tuple[tuple[int, int], ...]) -> tuple[int, ...] | None:
    """Returns the number of items to take from each cell, by branch and bound on the relaxation.

    Args:
        need: the number of items that each group needs.
        cells: the mask and the number of items of each cell.
    """
    has_group = [[mask >> group & 1 for group in range(len(need))] for mask, _ in cells]
    has_MJ = np.array(has_group, float).reshape(-1, len(need))
    need_J = np.array(need, float).clip(0)
    best: np.ndarray | None = None

    # A node of the search has a lower and an upper bound for the number of items of each cell.
    open_nodes = [(np.zeros(len(cells)), np.array([count for _, count in cells], float))]
    while open_nodes:
        least_M, most_M = open_nodes.pop()
        missing_J = (need_J - least_M @ has_MJ).clip(0)
        relaxed_M = _relaxed(missing_J, has_MJ, most_M - least_M)
        if relaxed_M is None:
            continue
        solution_M = least_M + relaxed_M
        bound = math.ceil(solution_M.sum() - _NEARLY)
        if best is not None and bound >= best.sum():
            continue

        rounded_M = _thinned(np.ceil(solution_M - _NEARLY), least_M, need_J, has_MJ)
        if best is None or rounded_M.sum() < best.sum():
            best = rounded_M
        if bound >= best.sum():
            continue

        # Branch on the cell with the value that is farthest from a whole number. The node that is
        # appended last is examined first: it has more items of this cell.
        cell = int(np.abs(solution_M - np.round(solution_M)).argmax())
        below_M = most_M.copy()
        above_M = least_M.copy()
        below_M[cell] = math.floor(solution_M[cell] + _NEARLY)
        above_M[cell] = below_M[cell] + 1
        open_nodes += [(least_M, below_M), (above_M, most_M)]
    return None if best is None else tuple(int(items) for items in best)


def _thinned(
    taken_M: np.ndarray, least_M: np.ndarray, need_J: np.ndarray, has_MJ: np.ndarray
) -> np.ndarray:
    """Removes surplus items, which no group needs, from a plan, and returns the plan.

    Args:
        taken_M: the plan; it is changed in place.
        least_M: the number of items that must be taken from each cell.
        need_J: the number of items that each group needs.
        has_MJ: 1 if the items of a cell are in a group, otherwise 0.
    """
    # Because of rounding up, there may be one item too many in each cell.
    spare_J = taken_M @ has_MJ - need_J
    for cell in range(len(taken_M)):
        groups = (has_MJ[cell] > 0) & (need_J > 0)
        fewer = min(spare_J[groups].min(initial=math.inf), taken_M[cell] - least_M[cell])
        if fewer > 0:
            taken_M[cell] -= fewer
            spare_J -= fewer * has_MJ[cell]
    return taken_M


def _relaxed(need_J: np.ndarray, has_MJ: np.ndarray, most_M: np.ndarray) -> np.ndarray | None:
    """Returns the best plan in which numbers of items may be fractions; None if no plan exists.

    It is computed by the simplex method with Bland's rule, on the dual: maximise need y - most w
    with has y - w <= 1 and y, w >= 0. The plan is the final cost of the slack variables.

    Args:
        need_J: the number of items that each group needs.
        has_MJ: 1 if the items of a cell are in a group, otherwise 0.
        most_M: the largest number of items to take from each cell.
    """
    # Without this check the dual would be unbounded.
    if (most_M < 0).any() or (most_M @ has_MJ < need_J).any():
        return None

    # The columns are y, w, the slack variables and the right-hand side. The slack variables are the
    # first basis, i.e. y = w = 0.
    cells, groups = has_MJ.shape
    table = np.concatenate([has_MJ, -np.eye(cells), np.eye(cells), np.ones((cells, 1))], 1)
    cost = np.concatenate([-need_J, most_M, np.zeros(cells + 1)])
    basis = np.arange(groups + cells, groups + 2 * cells)
    while True:
        entering = np.flatnonzero(cost[:-1] < -_NEARLY)
        if not len(entering):
            plan_M: np.ndarray = cost[groups + cells : -1].clip(0, most_M)
            return plan_M

        # Bland's rule, which never cycles, picks the first of these columns. If several rows have
        # the smallest ratio, it picks the row with the first variable of the basis.
        column = entering[0]
        rows = np.flatnonzero(table[:, column] > _NEARLY)
        ratios = table[rows, -1] / table[rows, column]
        ties = rows[ratios <= ratios.min() + 1e-12]
        row = ties[basis[ties].argmin()]

        table[row] /= table[row, column]
        others = np.arange(cells) != row
        table[others] -= table[others, column][:, None] * table[row]
        cost = cost - cost[column] * table[row]
        basis[row] = column
